"""Grids of pairs and constants as a file holds them, the ranges they stand for, and new ones."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.quantizing.grids import scale_and_zero_point
from qdq.targets import Target

Range: TypeAlias = tuple[float, float]

_ENDS = {"int8": (-128, 127), "uint8": (0, 255)}
_MIDDLE = {"int8": 0, "uint8": 128}
_REACH = 127  # steps on either side of the middle that every target's grid has


@dataclass(frozen=True, slots=True)
class PairGrid:
    """The grid of an activation's pair.

    Attributes:
        scale: float32; unit of x per step, > 0.
        zero_point: the code of 0.0.
        kind: type of the codes: "int8" or "uint8".
    """

    scale: float
    zero_point: int
    kind: str

    @property
    def ends(self) -> Range:
        """The least and the largest value that its codes hold."""
        low, high = _ENDS[self.kind]
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale

    @property
    def is_centred(self) -> bool:
        """Whether there are as many codes on either side of 0, but for one."""
        return self.zero_point == _MIDDLE[self.kind]

    @property
    def begins_at_zero(self) -> bool:
        """Whether 0.0 has the lowest code, so that negative values are lost."""
        return self.zero_point == _ENDS[self.kind][0]

    @property
    def range(self) -> Range:
        """What it was made for: its ends, of a centred one without the odd code."""
        if self.is_centred:
            return -_REACH * self.scale, _REACH * self.scale
        return self.ends

    def arrays(self) -> tuple[Array, Array]:
        """(scale, zero point) as initializers hold them, both ()."""
        return np.array(self.scale, np.float32), np.array(self.zero_point, self.kind)

    def __str__(self) -> str:
        return f"{self.kind}, zero point {self.zero_point}, step {self.scale:.6g}"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a tensor.

    Attributes:
        range: (least, largest) value.
        grid: of the pair that says so; None where no single one does.
        origin: "file", "derived", "measured" or "noted".
    """

    range: Range
    grid: PairGrid | None
    origin: str


@dataclass(frozen=True, eq=False, slots=True)
class HeldCodes:
    """A constant that the file holds as integers, or as floats with a pair behind them.

    Attributes:
        codes: int8, uint8 or int32.
        scale: () or (C,) float32.
        zero_point: of the same shape, in the type of the codes.
        axis: the axis of the C scales; None for one scale.
        site: as its file calls it; "" where that is not known.
    """

    codes: Array
    scale: Array
    zero_point: Array
    axis: int | None
    site: str = ""

    def values(self) -> Array:
        """What its DQ computes: (codes - zero_point) * scale, float32."""
        steps = self.codes.astype(np.int64) - _along(
            self.zero_point.astype(np.int64), self.axis, self.codes.ndim
        )
        scale = _along(self.scale, self.axis, self.codes.ndim)
        values: Array = np.asarray(steps.astype(np.float32) * scale)
        return values


def _along(values: Array, axis: int | None, rank: int) -> Array:
    """() or (C,) values, shaped to broadcast along an axis."""
    if axis is None:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def grid_for(target: Target, range_: Range, known: Known, *, match: bool) -> PairGrid:
    """The grid of a range on another target.

    A grid that the target can hold is kept, code for code, but for one with idle negative codes.

    Args:
        target: with 8-bit activations.
        range_: (least, largest) value.
        known: what that was cut down from.
        match: keep the step, or double it where codes would not reach; else the range is laid out
            anew where the grid cannot be kept.
    """
    low, high = min(range_[0], 0.0), max(range_[1], 0.0)
    before = known.grid
    kept = before is not None and known.range == before.range  # nothing else is known
    kind = "int8" if target.activation.signed else "uint8"
    if target.activation.symmetric:
        if before is not None and (match or (kept and before.is_centred)):
            fits = max(-low, high) <= (_REACH + 0.5) * before.scale
            return PairGrid(before.scale if fits else 2 * before.scale, 0, kind)
    elif low == 0:
        if before is not None and (match or (kept and before.begins_at_zero)):
            return PairGrid(before.scale, _ENDS[kind][0], kind)
    elif before is not None and (match or kept):
        shift = _MIDDLE[kind] - _MIDDLE[before.kind]
        return PairGrid(before.scale, before.zero_point + shift, kind)
    scale, zero_point = scale_and_zero_point(np.array(low), np.array(high), target.activation)
    return PairGrid(float(scale), int(zero_point), kind)
