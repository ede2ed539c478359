"""The integer grid that a range becomes, in numpy: what range methods judge ranges by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdq.errors import SpecError

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class Grid:
    """How many equal steps a quantizer takes, and where 0 lies among them.

    Attributes:
        levels: steps from the lowest code to the highest, 2**bits - 1.
        symmetric: zero point 0, codes of both signs for whatever values; otherwise the grid lies
            over [amin, amax], widened to hold 0, with a zero point of its own.
    """

    levels: int = 255
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise SpecError(
                f"a grid of levels={self.levels!r} steps is too small",
                fix="pass levels=2**bits - 1, at least 3",
            )

    def lay(self, low: Array, high: Array) -> tuple[Array, Whole, Whole]:
        """Lay the grid over ranges, as `affine.qparams` does and in float32 like it.

        Args:
            low: (K,) <= 0, unit of x.
            high: (K,) >= 0.

        Returns:
            (scale, steps below 0, steps above 0), each (K,); scale is in the unit of x per step.
        """
        least, most = low.astype(np.float32), high.astype(np.float32)
        if self.symmetric:
            above = self.levels // 2
            scale = _usable(np.maximum(-least, most) / np.float32(above))
            return scale, np.full(len(low), self.levels - above), np.full(len(low), above)
        levels = np.float32(self.levels)
        scale = _usable(most / levels - least / levels)
        below = np.clip(np.rint(-least / scale.astype(np.float32)), 0, self.levels).astype(int)
        return scale, below, self.levels - below


EIGHT_BITS = Grid()


def _usable(scale: NDArray[np.floating]) -> Array:
    return np.where(scale >= _TINY, scale, 1.0).astype(np.float64)
