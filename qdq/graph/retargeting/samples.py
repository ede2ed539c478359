"""Random inputs for an operator that is run alone."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import Array
from qdq.graph.retargeting.grids import PairGrid
from qdq.graph.retargeting.places import Place

_SIDE = 8  # a longer axis tells nothing more of an operator that treats its entries alike


def values_for(
    place: Place, grids: Sequence[Mapping[int, PairGrid]], *, on_grid: bool
) -> dict[str, Array] | None:
    """Seeded random inputs of one operator, for its forms in several files.

    Args:
        place: the operator.
        grids: per file, number of the node's input -> its grid there.
        on_grid: draw multiples of the largest step.

    Returns:
        x_0, x_1, ... of shapes that fit, within what all grids hold; None where no shape is known.
    """
    shapes = _shapes(place)
    if shapes is None:
        return None
    rng = np.random.default_rng(0)
    found = {}
    for index, shape in zip(place.inputs, shapes, strict=True):
        ends = [each[index].range for each in grids if index in each]
        low = max((each[0] for each in ends), default=-1.0)
        high = min((each[1] for each in ends), default=1.0)
        values = rng.uniform(low, high, shape).astype(np.float32)
        step = np.float32(max((each[index].scale for each in grids if index in each), default=0))
        if on_grid and step:
            values = np.trunc(values / step) * step
        found[f"x_{index}"] = values
    return found


def _shapes(place: Place) -> list[tuple[int, ...]] | None:
    node, product = place.node, place.product
    if product is not None:
        return [_product_shape(node, product.weight.shape)]
    if node.op in ("AveragePool", "GlobalAveragePool"):
        shape = node.inputs[0].shape
        kernel = node.attrs.get("kernel_shape", [5] * (2 if shape is None else len(shape) - 2))
        strides = node.attrs.get("strides", [1] * len(kernel))
        return [(1, 4, *(k + 2 * s for k, s in zip(kernel, strides, strict=True)))]
    if node.op == "MatMul":
        return [(4, 5), (5, 6)]
    if node.op not in ("Add", "Mul", "Concat"):
        return None
    known = [each.shape for each in node.inputs]
    if any(shape is None for shape in known):
        rank = max(4, node.attrs.get("axis", 0) + 1)
        return [(1, *([4] * (rank - 1)))] * len(known)
    sizes = [[_short(size) for size in shape] for shape in known]
    ranks = {len(each) for each in sizes}
    for axis in range(
        ranks.pop() if len(ranks) == 1 else 0
    ):  # one that is not known is the others'
        told = max((each[axis] for each in sizes), default=0) or 2
        for each in sizes:
            each[axis] = each[axis] or told
    return [tuple(size or 2 for size in each) for each in sizes]


def _short(size: object) -> int:
    """At most `_SIDE`; 0 where it is not known."""
    return min(size, _SIDE) if isinstance(size, int) and size > 0 else 0


def _product_shape(node: gs.Node, weight: tuple[int, ...]) -> tuple[int, ...]:
    """Rows of a matrix, or an image a little larger than the kernel."""
    if node.op == "Gemm":
        return 4, weight[1 if node.attrs.get("transB", 0) else 0]
    if node.op == "MatMul":
        return 4, weight[0]
    kernel = weight[2:]
    dilations = node.attrs.get("dilations", [1] * len(kernel))
    strides = node.attrs.get("strides", [1] * len(kernel))
    sizes = [(k - 1) * d + 1 + 2 * s for k, d, s in zip(kernel, dilations, strides, strict=True)]
    groups = node.attrs.get("group", 1) if node.op == "Conv" else 1
    return 1, weight[1 if node.op == "Conv" else 0] * groups, *sizes
