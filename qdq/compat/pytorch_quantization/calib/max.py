"""The largest magnitude that was seen."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.compat.pytorch_quantization.calib.calibrator import _Calibrator
from qdq.compat.pytorch_quantization.descriptor import Axis, NumBits
from qdq.compat.pytorch_quantization.utils.reduce_amax import reduce_amax


class MaxCalibrator(_Calibrator):
    """Keeps the largest |x|, in all or per entry of the kept axes.

    Args:
        num_bits: width of a code, or (4, 3).
        axis: the axes that keep an amax per entry, negative ones counted from the end; None: one.
        unsigned: codes start at 0.
        track_amax: keep the amax of every single tensor, too.
    """

    def __init__(
        self, num_bits: NumBits, axis: Axis, unsigned: bool, track_amax: bool = False
    ) -> None:
        super().__init__(num_bits, axis, unsigned)
        self._track_amax = track_amax
        self._amaxs: list[NDArray[Any]] = []
        self._calib_amax: Tensor | None = None

    @property
    def amaxs(self) -> list[NDArray[Any]]:
        """The amax of each tensor collected, with `track_amax`."""
        return self._amaxs

    def collect(self, x: Tensor) -> None:
        """Take the largest |x| along.

        Args:
            x: any shape, not empty. NaN is larger than everything.

        Raises:
            RuntimeError: an axis that keeps its entries has another number of them than before.
        """
        self._mention_negative(x)
        found = reduce_amax(x.detach(), axis=self._reduced(x.dim()))
        before = self._calib_amax
        if before is not None and before.shape != found.shape:
            raise RuntimeError(
                f"amax shape changed! It was {tuple(before.shape)} and is {tuple(found.shape)}: "
                "calibrate with axis=None, or reset() between tensors of different shapes"
            )
        if self._track_amax:
            self._amaxs.append(found.float().cpu().numpy())
        self._calib_amax = found if before is None else torch.maximum(before, found)

    def compute_amax(self) -> Tensor | None:
        """Largest |x| so far, in its unit.

        Returns:
            () or, with kept axes, x's number of axes with one entry on the others; None before
            any data.
        """
        return self._calib_amax

    def reset(self) -> None:
        """Forget all data."""
        self._calib_amax = None
        self._amaxs = []

    def _reduced(self, rank: int) -> tuple[int, ...] | None:
        if self._axis is None:
            return None
        kept = (self._axis,) if isinstance(self._axis, int) else self._axis
        return tuple(axis for axis in range(rank) if axis not in kept and axis - rank not in kept)

    def __repr__(self) -> str:
        return f"MaxCalibrator(track_amax={self._track_amax})"
