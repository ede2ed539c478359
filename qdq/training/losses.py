"""What is made small: a loss, a teacher's disagreement, or both."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.data import Batch, call, device_of, tensors_of, to_device
from qdq.errors import InputError
from qdq.registry import Registry

Loss: TypeAlias = Callable[[Any, Any], Tensor]
LOSSES: Registry[str, Loss] = Registry("loss")


@LOSSES.add("cross_entropy")
def cross_entropy(outputs: Any, target: Any) -> Tensor:
    """() mean cross entropy of the first output, (N, C, ...) scores, and class numbers (N, ...)."""
    return F.cross_entropy(tensors_of(outputs)[0], target)


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """() mean Kullback-Leibler divergence of the student's classes from the teacher's, in nats.

    Hinton et al. 2015, arXiv:1503.02531, sec. 2, at temperature 1.

    Args:
        student: (N, C, ...) scores.
        teacher: same shape.
    """
    each = F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True
    )
    return each.sum(1).mean()


class Objective:
    """loss(outputs, target) + teacher_weight * disagreement(outputs, the teacher's outputs).

    Args:
        loss: a callable, a name in `LOSSES`, or None with a teacher alone.
        teacher: a float model with the same outputs, in eval mode, on any device.
        teacher_weight: > 0.

    Raises:
        InputError: neither loss nor teacher, or a teacher in training mode.
        RegistryError: no loss of this name.
    """

    def __init__(
        self, loss: str | Loss | None, teacher: nn.Module | None, teacher_weight: float
    ) -> None:
        self.loss = LOSSES[loss] if isinstance(loss, str) else loss
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        if self.loss is None and teacher is None:
            raise InputError(
                "there is nothing to make small: loss is None and there is no teacher",
                fix="pass loss='cross_entropy', a function loss(outputs, target), or teacher=",
            )
        if not teacher_weight > 0:
            raise InputError(
                f"teacher_weight={teacher_weight} teaches nothing", fix="pass a number above 0"
            )
        if teacher is not None and any(module.training for module in teacher.modules()):
            raise InputError("the teacher is in training mode", fix="call teacher.eval() first")

    @property
    def name(self) -> str:
        """What is made small, for reports."""
        own = "" if self.loss is None else getattr(self.loss, "__name__", type(self.loss).__name__)
        return " + ".join(filter(None, [own, "" if self.teacher is None else "teacher"]))

    def require(self, batch: Batch) -> None:
        """InputError if the loss needs a target and the batch has none."""
        if self.loss is not None and batch.target is None:
            raise InputError(
                f"batch {batch.index} has no target for the loss",
                fix="yield (inputs, target); to learn from a teacher alone, pass loss=None",
            )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """(), for a batch on the model's device.

        Raises:
            InputError: no target, the model does not take the inputs, or the loss is no scalar.
        """
        self.require(batch)
        outputs = call(model, batch.inputs)
        parts = [] if self.loss is None else [_scalar(self.loss(outputs, batch.target))]
        if self.teacher is not None:
            own = tensors_of(outputs)[0]
            with torch.no_grad():
                inputs = to_device(batch.inputs, device_of(self.teacher))
                wanted = tensors_of(call(self.teacher, inputs))[0].to(own.device)
            parts.append(self.teacher_weight * disagreement(own, wanted))
        return torch.stack(parts).sum()


def _scalar(loss: object) -> Tensor:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss.reshape(())
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    raise InputError(
        f"the loss gave a {type(loss).__name__}{shape}",
        fix="return one number as a tensor: take the mean over the batch",
    )
