"""The validation metric after each epoch, computed as `qdq.validate` computes it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from qdq.data import device_of, length, read, rows_of, take_apart, to_device
from qdq.data.batches import Batch, numbered
from qdq.errors import InputError
from qdq.progress import track
from qdq.training.losses import Objective, cross_entropy
from qdq.validation.comparing import Metric, targets_of, top1
from qdq.validation.running import torch_runner


@dataclass(frozen=True)
class Judge:
    """Measures a model on the validation data; larger is better.

    Attributes:
        data: batches, read anew each time; None: there is nothing to measure.
        metric: metric(outputs, targets) -> float; None: minus the objective.
        objective: what training makes small.
        progress: show a bar on a terminal.
    """

    data: Iterable[object] | None
    metric: Metric | None
    objective: Objective
    progress: bool

    @property
    def name(self) -> str:
        """What is measured; "" for nothing."""
        if self.data is None:
            return ""
        if self.metric is None:
            return f"-{self.objective.name}"
        return getattr(self.metric, "__name__", type(self.metric).__name__)

    def __call__(self, model: nn.Module) -> float | None:
        """The metric of the model in eval mode, where it stays.

        Raises:
            InputError: no batch, one of another form, or none has a target for the metric.
        """
        if self.data is None:
            return None
        model.eval()
        batches = track(read(self.data), "validating", total=length(self.data), shown=self.progress)
        with torch.no_grad():
            if self.metric is None:
                return -_mean_loss(model, batches, self.objective)
            return _measure(model, batches, self.metric)


def make_judge(
    data: Iterable[object] | None, metric: Metric | None, objective: Objective, *, progress: bool
) -> Judge:
    """A judge by the user's metric, by top-1 where classes are learned, else by the loss.

    Raises:
        InputError: a metric without data, or data that can be read only once.
    """
    if data is None and metric is not None:
        raise InputError(
            "a metric needs validation data, and val is None",
            fix="pass val=, batches that are not trained on, or leave metric out",
        )
    if data is not None:
        peek(data, "val", reads=None)
    if metric is None and objective.loss is cross_entropy:
        metric = top1
    return Judge(data, metric, objective, progress)


def peek(data: Iterable[object], name: str, *, reads: int | None) -> Batch | None:
    """The first batch, checked; None where taking it would lose it.

    Args:
        data: what the user passed.
        name: under which name.
        reads: how often it will be read; None for more than once.

    Raises:
        InputError: no batch, one of another form, or an iterator that is read more than once.
    """
    if isinstance(data, Iterator):
        if reads != 1:
            raise InputError(
                f"{name} can be read only once, and it is read "
                + ("before the first epoch and after each" if reads is None else f"{reads} times"),
                fix="pass a list of batches or a DataLoader instead of a generator",
            )
        return None
    return take_apart(next(numbered(data))[1])


def _measure(model: nn.Module, batches: Iterable[Batch], metric: Metric) -> float:
    run = torch_runner(model)
    outputs, targets = [], []
    for batch in batches:
        outputs.append(run(batch.inputs)[0])
        targets.extend(targets_of(batch))
    if not targets:
        raise InputError(
            "a metric needs targets, and the batches of val hold none",
            fix="yield (inputs, target)",
        )
    return float(metric(np.concatenate(outputs), np.concatenate(targets)))


def _mean_loss(model: nn.Module, batches: Iterable[Batch], objective: Objective) -> float:
    total, rows = 0.0, 0
    for batch in batches:
        here = on_device(batch, device_of(model))
        total += float(objective(model, here)) * (rows_of(batch.inputs) or 1)
        rows += rows_of(batch.inputs) or 1
    return total / rows


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors there."""
    inputs, target = (to_device(each, device) for each in (batch.inputs, batch.target))
    return Batch(batch.index, inputs, target)
