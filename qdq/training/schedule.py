"""The course of a training: how long, how fast, with which optimizer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from qdq.errors import InputError
from qdq.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Course:
    """Everything about the steps but the data, checked at birth.

    Attributes:
        epochs: passes over the data, >= 1.
        lr: learning rate at its height, > 0.
        optimizer: a name in `OPTIMIZERS`.
        momentum: of SGD, in [0, 1); AdamW has its own.
        weight_decay: >= 0.
        warmup_epochs: how long the rate rises at first, >= 0, < epochs; fractions count.
        freeze_batchnorm: BatchNorms normalize with the statistics they have.
    """

    epochs: int
    lr: float
    optimizer: str
    momentum: float
    weight_decay: float
    warmup_epochs: float
    freeze_batchnorm: bool

    def __post_init__(self) -> None:
        OPTIMIZERS[self.optimizer]
        for name, fits, allowed in (
            ("epochs", self.epochs >= 1 and self.epochs == int(self.epochs), "1, 2, 3, ..."),
            ("lr", 0 < self.lr < math.inf, "a number above 0, 1e-3 for a start"),
            ("momentum", 0 <= self.momentum < 1, "a number in 0 <= momentum < 1, such as 0.9"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 for none, or such as 1e-4"),
            ("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, "0 <= warmup_epochs < epochs"),
        ):
            if not fits:
                value = getattr(self, name)
                raise InputError(f"{name}={value!r} cannot be", fix=f"pass {allowed}")

    def ticks(self, steps_per_epoch: int | None) -> tuple[int, int]:
        """(how often the rate is set, how many of those warm up).

        Args:
            steps_per_epoch: the rate is set at each step; None, where nobody knows how many there
                will be: once an epoch.
        """
        per_epoch = steps_per_epoch or 1
        ticks = self.epochs * per_epoch
        return ticks, min(round(self.warmup_epochs * per_epoch), ticks - 1)


def rate(tick: int, ticks: int, warmup: int = 0) -> float:
    """The learning rate as a share of its height: a linear rise, then half a cosine down to 0.

    (1 + cos(pi t)) / 2 with t from 0 to 1: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5,
    with eta_min = 0 and no restart.

    Args:
        tick: 0 .. ticks; 0 is the first step, ticks is after the last.
        ticks: > warmup.
        warmup: length of the rise; its first value is 1 / (warmup + 1), never 0.
    """
    if tick < warmup:
        return (tick + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (tick - warmup) / (ticks - warmup))) / 2


MakeOptimizer: TypeAlias = Callable[[list[nn.Parameter], Course], torch.optim.Optimizer]
OPTIMIZERS: Registry[str, MakeOptimizer] = Registry("optimizer")


@OPTIMIZERS.add("sgd")
def _sgd(parameters: list[nn.Parameter], course: Course) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, lr=course.lr, momentum=course.momentum, weight_decay=course.weight_decay
    )


@OPTIMIZERS.add("adamw")
def _adamw(parameters: list[nn.Parameter], course: Course) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=course.lr, weight_decay=course.weight_decay)
