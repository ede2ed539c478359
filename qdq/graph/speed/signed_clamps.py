"""ReLU and other clamps in front of int8 codes that stay int8."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import QUANTIZE, is_output
from qdq.graph.speed.quantized import (
    Grid,
    can_give_codes,
    pair_behind,
    rounds_once,
    scalar_grid,
)


def round_before_clamps(graph: gs.Graph) -> int:
    """A Relu or Clip in front of an int8 Q gets a pair of the same grid in front of it.

    Requires: Qs of one grid are all that reads it, and what makes its input runs in integers once
    a Q stands behind. Ensures: equal results, as rounding keeps the order: Q(clamp(DQ(Q(x)))) =
    Q(clamp(x)). A clamp does not vanish in front of zero point 0 (O04): now it alone runs float.
    """
    rewritten = 0
    for clamp in [each for each in graph.nodes if each.op in ("Relu", "Clip")]:
        grid, tensor = _grid_behind(graph, clamp), clamp.inputs[0]
        if grid is None or not rounds_once(grid) or not can_give_codes(graph, tensor):
            continue
        if grid[1].dtype == np.int8 and grid[1] > np.iinfo(np.int8).min:
            clamp.inputs[0] = pair_behind(graph, tensor, grid, f"{clamp.outputs[0].name}.before")
            rewritten += 1
    return rewritten


def _grid_behind(graph: gs.Graph, clamp: gs.Node) -> Grid | None:
    """The grid of all that reads a clamp; None where it is not one, or something else reads it."""
    result = clamp.outputs[0]
    grids = [scalar_grid(each) if each.op == QUANTIZE else None for each in result.outputs]
    one = bool(grids) and not is_output(graph, result) and all(each == grids[0] for each in grids)
    return grids[0] if one else None
