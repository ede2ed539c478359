"""The best weights so far, and the ones from before."""

import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from qdq.errors import InputError
from qdq.insertion.checkpoints import save


class Keeper:
    """Copies of all that training changes: the chosen parameters and every buffer.

    Args:
        model: as it is before the first step.
        chosen: names of the parameters to train.
        checkpoint: where `qdq.save` writes the best; None for nowhere.

    Attributes:
        best_epoch: whose weights are kept; 0: those from before.

    Raises:
        InputError: the checkpoint cannot be written.
    """

    def __init__(
        self, model: nn.Module, chosen: set[str], checkpoint: str | os.PathLike[str] | None
    ) -> None:
        self._model = model
        self._chosen = chosen
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        if self._checkpoint is not None:
            _refuse_unwritable(self._checkpoint)
        self._before = self._best = self._copies()
        self._score = -math.inf
        self.best_epoch = 0

    def offer(self, epoch: int, score: float | None) -> None:
        """Keep the weights as they are now if they are better, or if nobody measures.

        Args:
            epoch: 0 before the first step.
            score: larger is better; NaN never is. None: the last is the best.
        """
        if score is not None and not score > self._score:
            return
        self._score = -math.inf if score is None else score
        self.best_epoch = epoch
        if epoch > 0:
            self._best = self._copies()
            self._write()

    def finish(self) -> None:
        """The model holds the best weights, and the checkpoint too."""
        self.put_back_best()
        if self.best_epoch == 0:
            self._write()

    def put_back_best(self) -> None:
        """The model's weights are those of the best epoch; from before, where none has ended."""
        self._fill(self._best)

    def put_back_before(self) -> None:
        """The model's weights are those from before the first step."""
        self._fill(self._before)

    def _tensors(self) -> dict[str, Tensor]:
        named = dict(self._model.named_parameters(remove_duplicate=False))
        return {name: named[name].data for name in self._chosen} | dict(self._model.named_buffers())

    def _copies(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def _fill(self, copies: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(copies[name])

    def _write(self) -> None:
        if self._checkpoint is not None:
            save(self._model, self._checkpoint)


def _refuse_unwritable(path: Path) -> None:
    """InputError now and not after an epoch."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            "the checkpoint cannot be written here",
            at=str(path),
            fix="name a file in a folder that exists and that you may write to",
        )
