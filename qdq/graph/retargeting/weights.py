"""What the codes of a weight become on another target: most often themselves."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.retargeting.grids import HeldCodes
from qdq.targets import Target

Kept: TypeAlias = Literal["kept", "shifted", "requantized"]


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """A weight as the second file holds it.

    Attributes:
        codes: with their grid.
        how: "kept" code for code, "shifted" by 128 code for code, or "requantized".
    """

    codes: HeldCodes
    how: Kept

    @property
    def scale(self) -> Array:
        """() or (C,) float32."""
        return self.codes.scale


def written(held: HeldCodes, target: Target) -> Written:
    """The codes of a weight for a target whose weights are symmetric int8.

    Codes around 128 are shifted. Others whose 0.0 is not the code 0 stay where activations may be
    affine too; elsewhere, and where the target has fewer bits, they are quantized again, by the
    largest value of each scale.
    """
    limit = target.weight.qmax
    if held.codes.dtype == np.uint8 and np.all(held.zero_point == 128):
        codes = (held.codes.astype(np.int16) - 128).astype(np.int8)
        zero_point = np.zeros(held.zero_point.shape, np.int8)
        held, how = HeldCodes(codes, held.scale, zero_point, held.axis, held.site), "shifted"
    else:
        how = "kept"
    centred = not target.activation.symmetric or not held.zero_point.any()
    steps = held.codes.astype(np.int16) - (0 if held.codes.dtype == np.int8 else 128)
    if centred and (target.weight.bits == 8 or np.abs(steps).max(initial=0) <= limit):
        return Written(held, how)  # type: ignore[arg-type]
    return Written(_quantized_again(held, limit), "requantized")


def _quantized_again(held: HeldCodes, limit: int) -> HeldCodes:
    values = held.values()
    axes = tuple(axis for axis in range(values.ndim) if axis != held.axis)
    largest = np.abs(values).max(axis=axes if held.axis is not None else None, keepdims=True)
    steps = largest / np.float32(limit)
    steps = np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1.0))
    codes = np.clip(np.rint(values / steps), -limit, limit).astype(np.int8)
    scale = steps.reshape(held.scale.shape).astype(np.float32)
    return HeldCodes(codes, scale, np.zeros(scale.shape, np.int8), held.axis, held.site)
