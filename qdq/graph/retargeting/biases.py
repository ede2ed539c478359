"""The int32 codes of a bias, kept where the file has them on the same grid."""

from dataclasses import replace

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.lowering import SiteGrid
from qdq.graph.quantizing.grids import bias_grid
from qdq.graph.retargeting.grids import HeldCodes, PairGrid

LARGEST_BIAS = 2.0**30  # the other half of an int32 accumulator is left to the products


def integer_bias(
    site: str, values: Array, held: HeldCodes | None, of_input: PairGrid, of_weight: Array
) -> SiteGrid:
    """A bias as codes of scale s_x * s_w, one scale where the weight has one (O07).

    Args:
        site: its name.
        values: (C,) float32.
        held: as the file holds it; None: as floats.
        of_input: grid of the activation.
        of_weight: () or (C,) scale of the weight.
    """
    grid = bias_grid(site, values, of_input.arrays()[0], of_weight, as_float=False)
    if not of_weight.ndim:
        scale, zero_point = (each[:1].reshape(()) for each in (grid.scale, grid.zero_point))
        grid = replace(grid, scale=scale, zero_point=zero_point, axis=None)
    if held is None or held.codes.dtype != np.int32 or held.zero_point.any():
        return grid
    before, after = (np.broadcast_to(each.scale, values.shape) for each in (held, grid))
    same = np.array_equal(before, after)
    return replace(grid, codes=held.codes) if same else grid


def fits(values: Array, of_input: PairGrid, of_weight: Array) -> bool:
    """Whether the codes of a bias leave room in an int32 accumulator (O25)."""
    step = np.float64(of_input.scale) * of_weight.astype(np.float64)
    step = np.tile(step.reshape(-1), max(values.size // step.size, 1))
    return bool(np.all(np.abs(values) <= step * LARGEST_BIAS))
