"""What happens at each step and each epoch; who calls when is Lightning's business."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from qdq.data import length, read, rows_of
from qdq.data.batches import Batch
from qdq.errors import InputError, TrainingError
from qdq.progress import track
from qdq.records.training import EpochRow
from qdq.training.judging import Judge
from qdq.training.keeping import Keeper
from qdq.training.losses import Objective
from qdq.training.schedule import OPTIMIZERS, Course, rate


class Lessons:
    """One training of one model.

    Args:
        model: to train.
        chosen: the parameters that learn.
        train: batches, read once per epoch.
        course: how long and how fast.
        objective: what to make small.
        judge: measures after each epoch.
        keeper: keeps the best weights.
        progress: show a bar on a terminal.

    Attributes:
        rows: one per epoch that has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        chosen: dict[str, nn.Parameter],
        train: Iterable[object],
        *,
        course: Course,
        objective: Objective,
        judge: Judge,
        keeper: Keeper,
        progress: bool,
    ) -> None:
        self.model = model
        self.course = course
        self.rows: list[EpochRow] = []
        self._chosen = chosen
        self._train = train
        self._objective = objective
        self._judge = judge
        self._keeper = keeper
        self._progress = progress
        self._step = self._samples = 0
        self._loss = 0.0
        self.optimizer = OPTIMIZERS[course.optimizer](list(chosen.values()), course)
        ticks, warmup = course.ticks(length(train))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda tick: rate(tick, ticks, warmup)
        )
        self.tick = "epoch" if length(train) is None else "step"

    @property
    def epoch(self) -> int:
        """Number of the epoch that runs, from 1."""
        return len(self.rows) + 1

    def batches(self) -> Iterator[Batch]:
        """Those of the next epoch."""
        what = f"epoch {self.epoch} of {self.course.epochs}"
        return track(read(self._train), what, total=length(self._train), shown=self._progress)

    def begin_epoch(self) -> None:
        """Training mode; BatchNorms stay as in inference where they are frozen."""
        self.model.train()
        if self.course.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self._step = self._samples = 0
        self._loss = 0.0
        self._lr = float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: Batch) -> Tensor:
        """The loss of a batch on the model's device, to go backward from.

        Raises:
            InputError: as of `Objective`, or a loss that no trained parameter has a part in.
            TrainingError: the loss is NaN or infinite.
        """
        self._step += 1
        loss = self._objective(self.model, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}", f"step {self._step}")
        if not loss.requires_grad:
            raise InputError(
                "no trained parameter has a part in the loss",
                at=", ".join(list(self._chosen)[:4]),
                fix="compute the loss from the outputs by torch functions, without detach() or "
                "no_grad(), and let trainable= name layers that the outputs depend on",
            )
        rows = rows_of(batch.inputs) or 1
        self._loss += value * rows
        self._samples += rows
        return loss

    def end_epoch(self) -> None:
        """Measure, keep the weights if they are the best, and note a row.

        Raises:
            TrainingError: a weight is NaN or infinite.
        """
        for name, parameter in self._chosen.items():
            if not bool(torch.isfinite(parameter).all()):
                raise self._diverged(f"{name} holds NaN or infinity", f"step {self._step}")
        metric = self._judge(self.model)
        self._keeper.offer(self.epoch, metric)
        self.rows.append(EpochRow(self.epoch, self._loss / self._samples, self._lr, metric))

    def _diverged(self, what: str, where: str) -> TrainingError:
        return TrainingError(
            f"{what}; the model has its weights from before the training again",
            at=f"epoch {self.epoch}, {where}",
            fix=f"lower lr={self.course.lr:g}, to a tenth for a start, or pass warmup_epochs=",
        )
