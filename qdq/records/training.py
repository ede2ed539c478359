"""What fine-tuning did, epoch by epoch."""

from dataclasses import dataclass

from qdq.records.base import Record


@dataclass(frozen=True)
class EpochRow:
    """One epoch.

    Attributes:
        epoch: its number, from 1.
        train_loss: mean over the samples, as the weights were at each step.
        lr: learning rate of its first step.
        val_metric: after it; None without validation data.
    """

    epoch: int
    train_loss: float
    lr: float
    val_metric: float | None


@dataclass(frozen=True)
class FinetuneReport(Record):
    """How the weights that the model holds now were found.

    Attributes:
        target: the runtime whose arithmetic was simulated.
        loss: name of the loss.
        metric_name: what `val_metric` is, larger is better; "" without validation data.
        before: the metric before the first step; None without validation data.
        best_epoch: the epoch whose weights were kept; 0: no epoch beat the model as it was.
        parameters: how many numbers were trained.
        tensors: in how many tensors they are.
        rows: one per epoch.
    """

    target: str
    loss: str
    metric_name: str
    before: float | None
    best_epoch: int
    parameters: int
    tensors: int
    rows: tuple[EpochRow, ...]

    def __str__(self) -> str:
        text = (
            f"{self.target}: trained {self.parameters:,} parameters in {self.tensors} tensors "
            f"for {len(self.rows)} epochs; "
        )
        if self.before is None:
            return text + f"loss {self.rows[0].train_loss:.4g} -> {self.rows[-1].train_loss:.4g}"
        if self.best_epoch == 0:
            return (
                text + f"none beat {self.metric_name} {self.before:.4g}, the weights are as before"
            )
        after = self.rows[self.best_epoch - 1].val_metric
        return text + (
            f"{self.metric_name} {self.before:.4g} -> {after:.4g} after epoch {self.best_epoch}"
        )
