"""finetune: a quantized model learns to live with its rounding (QAT), in place."""

import os
from collections.abc import Iterable

import torch
from torch import nn

from qdq.data import device_of
from qdq.errors import CalibrationError, InputError
from qdq.insertion.placing import found_insertion
from qdq.insertion.switches import quantizers
from qdq.nn import callsites
from qdq.records.training import FinetuneReport
from qdq.sites import Patterns
from qdq.training.judging import Judge, make_judge, peek
from qdq.training.keeping import Keeper
from qdq.training.lessons import Lessons
from qdq.training.lightning_loop import require_lightning, run, seeded
from qdq.training.losses import Loss, Objective
from qdq.training.parameters import choose_parameters, only_these_learn
from qdq.training.schedule import Course
from qdq.validation.comparing import Metric


def finetune(
    model: nn.Module,
    train: Iterable[object],
    val: Iterable[object] | None = None,
    *,
    loss: str | Loss | None,
    epochs: int,
    lr: float,
    trainable: Patterns = "*",
    metric: Metric | None = None,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_epochs: float = 0.0,
    freeze_batchnorm: bool = True,
    teacher: nn.Module | None = None,
    teacher_weight: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> FinetuneReport:
    """Train the weights through the rounding of every active site, in place; Lightning runs it.

    The forward rounds as the target does, the backward passes straight through where values lie
    within their range (Jacob et al. 2018, arXiv:1712.05877, sec. 3). Ranges of activations stay
    as calibrated; those of weights follow the weights. The rate falls by a cosine, see
    `qdq.training.schedule.rate`.

    With `val` the weights of the best epoch are kept, or those from before if no epoch beats
    them; without, the last epoch's. The model is then in eval mode. After an error its weights
    are those from before; after Ctrl-C those of the best epoch that had ended. Flags of
    `requires_grad`, the device and the states of random generators are always put back, modes
    where it did not end well. On the CPU equal calls give equal bytes; on CUDA as far as torch's
    kernels are deterministic.

    Args:
        model: after `insert` and `calibrate`.
        train: batches with targets (see `qdq.data`), read once per epoch. Without a length the
            learning rate changes once an epoch instead of at each step.
        val: batches to choose the best epoch by.
        loss: "cross_entropy", loss(outputs, target) -> scalar, or None with a teacher alone.
        epochs: passes over `train`.
        lr: the highest learning rate.
        trainable: the parameters that learn: a glob, `re:...`, a class, a callable(name, module),
            or several. What has `requires_grad` False stays frozen.
        metric: metric(outputs, targets) -> float, larger is better, on numpy arrays. None: top-1
            accuracy for "cross_entropy", else minus the loss.
        optimizer: "sgd" or "adamw".
        momentum: of "sgd".
        weight_decay: pull towards 0.
        warmup_epochs: the rate rises linearly for so long at first.
        freeze_batchnorm: BatchNorms that were not folded keep their statistics.
        teacher: a float model in eval mode whose classes the model shall match.
        teacher_weight: of the teacher's part beside the loss.
        seed: of dropout, shuffling and augmentation by the global generators.
        device: where to train; None: where the model is.
        progress: show a bar on a terminal.
        checkpoint: a file that `qdq.save` writes with each new best.

    Raises:
        StepError: the model has no quantizers, or Lightning is not installed.
        CalibrationError: an active site has no range.
        PolicyError: a pattern fits no parameter, or only frozen ones.
        RegistryError: no such loss or optimizer.
        InputError: a number out of its bounds, data or loss that cannot be used, a metric
            without `val`, or a checkpoint that cannot be written.
        TrainingError: the loss or a weight became NaN or infinite.
    """
    inserted = found_insertion(model)
    target = "its own" if inserted is None else inserted.target.name
    course = Course(
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        freeze_batchnorm=freeze_batchnorm,
    )
    objective = Objective(loss, teacher, teacher_weight)
    _refuse_uncalibrated(model)
    chosen = choose_parameters(model, trainable)
    _refuse_shared(chosen, teacher)
    require_lightning()
    where = device_of(model) if device is None else _numbered(torch.device(device))
    with seeded(seed, where):
        first = peek(train, "train", reads=epochs)
        if first is not None:
            objective.require(first)
        judge = make_judge(val, metric, objective, progress=progress)
        keeper = Keeper(model, set(chosen), checkpoint)
        with only_these_learn(model, chosen):
            model.to(where)
            lessons = Lessons(
                model,
                chosen,
                train,
                course=course,
                objective=objective,
                judge=judge,
                keeper=keeper,
                progress=progress,
            )
            before = _learn(lessons, judge, keeper, where)
    model.eval()
    return FinetuneReport(
        target=target,
        loss=objective.name,
        metric_name=judge.name,
        before=before,
        best_epoch=keeper.best_epoch,
        parameters=sum(parameter.numel() for parameter in chosen.values()),
        tensors=len(chosen),
        rows=tuple(lessons.rows),
    )


def _learn(lessons: Lessons, judge: Judge, keeper: Keeper, device: torch.device) -> float | None:
    """The metric from before; the model ends with its best weights, or none of its changes."""
    try:
        before = judge(lessons.model)
        if before is not None:
            keeper.offer(0, before)
        run(lessons, device)
        keeper.finish()
    except KeyboardInterrupt:
        callsites.reset()
        keeper.put_back_best()
        raise
    except BaseException:
        callsites.reset()
        keeper.put_back_before()
        raise
    return before


def _refuse_uncalibrated(model: nn.Module) -> None:
    unset = [
        site
        for site, quantizer in quantizers(model).items()
        if quantizer.on and not quantizer.calibrated and not quantizer.dynamic
    ]
    if unset:
        raise CalibrationError(
            f"{len(unset)} active sites have no range yet",
            at=", ".join(unset[:8]),
            fix="run qdq.calibrate(model, data) first, with data that reaches them",
        )


def _refuse_shared(chosen: dict[str, nn.Parameter], teacher: nn.Module | None) -> None:
    learning = {id(parameter) for parameter in chosen.values()}
    if teacher is not None and any(id(each) in learning for each in teacher.parameters()):
        raise InputError(
            "the teacher holds parameters that are trained: it would agree with itself",
            at=type(teacher).__name__,
            fix="pass teacher=copy.deepcopy(model), copied before qdq.insert",
        )


def _numbered(device: torch.device) -> torch.device:
    """`cuda` as `cuda:0`, the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
