"""How far the values of two initializers lie apart."""

import numpy as np
from onnx import NodeProto

from qdq.graph.differing.sides import Side
from qdq.graph.edges import DEQUANTIZE, QUANTIZE, Array

_LAST_CODE = 127  # of 8 bits, symmetric: where a wrong scale tells most


def largest_gap(before: Array, after: Array) -> float:
    """Largest absolute difference; equal infinities and NaN on both sides are no difference."""
    if before.dtype.kind == "c":
        return float(np.max(np.abs(before - after), initial=0))
    wide = [each.astype(np.float64) for each in (before, after)]
    with np.errstate(invalid="ignore"):
        gaps = np.abs(wide[0] - wide[1])
    alike = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    gaps = np.where(alike, 0.0, np.where(np.isnan(gaps), np.inf, gaps))
    return float(np.max(gaps, initial=0))


def gap_in_steps(
    file: Side, reader: NodeProto, place: int, before: Array, after: Array
) -> float | None:
    """The difference in steps of the grid of the Q or DQ that reads the initializer."""
    if reader.op_type not in (QUANTIZE, DEQUANTIZE):
        return None
    if before.dtype.kind in "iu":
        return largest_gap(before, after)
    if place == 1:
        with np.errstate(all="ignore"):
            ratio = after.astype(np.float64) / before.astype(np.float64)
        return largest_gap(ratio, np.ones_like(ratio)) * _LAST_CODE
    scale = reader.input[1]
    if place != 0 or reader.op_type != QUANTIZE or scale not in file.held:
        return None
    widths = file.values(scale).astype(np.float64)
    if widths.ndim == 1:
        axis = next((each.i for each in reader.attribute if each.name == "axis"), 1)
        widths = widths.reshape(
            [-1 if each == axis % before.ndim else 1 for each in range(before.ndim)]
        )
    with np.errstate(all="ignore"):
        return largest_gap(before / widths, after / widths)
