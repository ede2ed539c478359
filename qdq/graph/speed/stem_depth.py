"""Large strided first convolutions, on blocks of 2x2 pixels."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, Array, infer_shapes, made_by
from qdq.graph.speed.geometry import Geometry, geometry
from qdq.graph.speed.quantized import (
    ALIGNED,
    FEWEST,
    Codes,
    give_codes,
    read_codes,
    scalar_grid,
    symmetric_weight,
)

_SMALLEST = 5  # side of a kernel from which it pays


def block_stem(graph: gs.Graph) -> int:
    """A KxK convolution of stride 2 on three channels becomes a smaller one of stride 1 on twelve.

    SpaceToDepth makes four channels of each block of 2x2 pixels, on the codes; a kernel of 7x7
    becomes one of 4x4.

    Requires: K >= 5, at most 4 channels and not in blocks of four, an even height and width that
    are known, one group, no dilation, an int8 weight with zero point 0. Ensures: equal integer
    sums, for each weight meets the pixel that it met before, and the others are zero.
    """
    infer_shapes(graph)
    rewritten = 0
    for conv in [each for each in graph.nodes if each.op == "Conv"]:
        weight, before = symmetric_weight(conv), made_by(conv.inputs[0], DEQUANTIZE)
        if weight is None or before is None or scalar_grid(before) is None:
            continue
        here, shape = geometry(conv, weight.values.shape), conv.inputs[0].shape
        if here is None or not _pays(here, weight.values, shape) or shape is None:
            continue
        axes = [_blocked(here, axis) for axis in (0, 1)]
        if min(end for _, _, end in axes) < 0 or before.inputs[2].values.dtype != np.uint8:
            continue
        read_codes(graph, conv, _to_depth(graph, conv, before.inputs[0]), before)
        kernel = [size for size, _, _ in axes]
        codes = _block_weight(weight.values, here, kernel, [begin for _, begin, _ in axes])
        give_codes(graph, conv, 1, Codes(codes, weight.scale, weight.zero_point, weight.axis))
        pads = [begin for _, begin, _ in axes] + [end for _, _, end in axes]
        conv.attrs.update(kernel_shape=kernel, strides=[1, 1], pads=pads)
        conv.attrs.pop("auto_pad", None)
        rewritten += 1
    return rewritten


def _pays(here: Geometry, weight: Array, shape: list[object] | None) -> bool:
    outputs, inputs = weight.shape[:2]
    if shape is None or len(shape) != 4 or inputs >= ALIGNED or outputs % ALIGNED:
        return False
    even = all(isinstance(each, int) and each > 0 and each % 2 == 0 for each in shape[2:])
    plain = here.strides == (2, 2) and here.dilations == (1, 1) and here.groups == 1
    return even and plain and min(here.kernel) >= _SMALLEST and outputs >= FEWEST


def _blocked(here: Geometry, axis: int) -> tuple[int, int, int]:
    """(side, zeros before, zeros behind) in blocks: pixel k - begin lies in block floor(../2)."""
    kernel, begin, end = here.kernel[axis], here.begin[axis], here.end[axis]
    before = -(-begin // 2)
    size = (kernel - 1 - begin) // 2 + before + 1
    return size, before, (begin + end - kernel) // 2 + size - before


def _block_weight(weight: Array, here: Geometry, kernel: list[int], begin: list[int]) -> Array:
    """(O, C, K, K) -> (O, 4C, k, k): channel (row * 2 + column) * C + c of a block."""
    outputs, inputs = weight.shape[:2]
    blocked = np.zeros((outputs, 2, 2, inputs, *kernel), weight.dtype)
    for row in range(here.kernel[0]):
        for column in range(here.kernel[1]):
            block_row, inner_row = divmod(row - here.begin[0], 2)
            block_column, inner_column = divmod(column - here.begin[1], 2)
            place = (block_row + begin[0], block_column + begin[1])
            blocked[:, inner_row, inner_column, :, *place] = weight[:, :, row, column]
    return blocked.reshape(outputs, 4 * inputs, *kernel)


def _to_depth(graph: gs.Graph, conv: gs.Node, codes: gs.Variable) -> gs.Variable:
    name = f"{codes.name}.blocks/{conv.outputs[0].name}"
    blocks = gs.Variable(name, np.uint8)
    node = gs.Node("SpaceToDepth", f"{name}/SpaceToDepth", {"blocksize": 2}, [codes], [blocks])
    graph.nodes.append(node)
    return blocks
