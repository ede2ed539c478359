"""Shortcuts that pick every other pixel and pad channels, as one integer convolution.

He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, sec. 3.3, (A).
"""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, infer_shapes, maker_of, only_reader, values_of
from qdq.graph.speed.quantized import ALIGNED, FEWEST, Codes, give_codes, scalar_grid

_WIDEST = 128  # channels; with more, multiplying by zeros takes longer than moving floats
_TO_THE_END = 2**31 - 1


@dataclass
class _Picking:
    """What a chain of Slice and Pad does to (N, C, H, W)."""

    rows: int = 1
    columns: int = 1
    before: int = 0
    behind: int = 0


def pick_by_convolution(graph: gs.Graph) -> int:
    """DQ - Slice and Pad - Q becomes a 1x1 convolution with a stride, whose weights are 0 and 1.

    Requires: slices that take every s-th row and column, pads of zeros on channels, 16 to 128
    channels in all, one scale each. Ensures: equal results: of all 256 codes that can go in, each
    comes out as before, also by one multiplication as integer kernels do it; else nothing is done.
    """
    infer_shapes(graph)
    rewritten = 0
    for quantize in [each for each in graph.nodes if each.op == QUANTIZE]:
        picking, dequantize = _follow(graph, quantize)
        if dequantize is None or picking is None:
            continue
        shape = dequantize.outputs[0].shape
        if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
            continue
        width = shape[1] + picking.before + picking.behind
        if shape[1] % ALIGNED or width % ALIGNED or not FEWEST <= width <= _WIDEST:
            continue
        if _maps_equally(dequantize, quantize):
            _convolve(graph, dequantize.outputs[0], quantize, picking, shape[1])
            rewritten += 1
    return rewritten


def _follow(graph: gs.Graph, quantize: gs.Node) -> tuple[_Picking | None, gs.Node | None]:
    """What stands before a Q, and the DQ before that."""
    picking, tensor = _Picking(), quantize.inputs[0]
    node = maker_of(tensor)
    while node is not None and node.op in ("Slice", "Pad"):
        alone = only_reader(graph, tensor) is not None
        if not alone or not (_add_slice if node.op == "Slice" else _add_pad)(picking, node):
            return None, None
        tensor = node.inputs[0]
        node = maker_of(tensor)
    found = node is not None and node.op == DEQUANTIZE and picking != _Picking()
    return (picking, node) if found else (None, None)


def _add_slice(picking: _Picking, node: gs.Node) -> bool:
    starts, ends, axes, steps = (values_of(node, index) for index in (1, 2, 3, 4))
    if starts is None or ends is None or axes is None or steps is None:
        return False
    if starts.any() or np.any(ends < _TO_THE_END) or np.any(steps < 1):
        return False
    for axis, step in zip(axes.tolist(), steps.tolist(), strict=True):
        if axis % 4 == 2:
            picking.rows *= step
        elif axis % 4 == 3:
            picking.columns *= step
        elif step != 1:
            return False
    return True


def _add_pad(picking: _Picking, node: gs.Node) -> bool:
    pads, value = values_of(node, 1), values_of(node, 2)
    constant = len(node.inputs) < 3 or node.inputs[2].is_empty() or value is not None
    if node.attrs.get("mode", "constant") != "constant" or not constant or len(node.inputs) > 3:
        return False
    if pads is None or pads.size != 8 or pads.min() < 0 or (value is not None and value.any()):
        return False
    if pads[[0, 2, 3, 4, 6, 7]].any():
        return False
    picking.before += int(pads[1])
    picking.behind += int(pads[5])
    return True


def _maps_equally(dequantize: gs.Node, quantize: gs.Node) -> bool:
    """Whether one multiplication gives each code what DQ and Q give it."""
    into, out = scalar_grid(dequantize), scalar_grid(quantize)
    if into is None or out is None:
        return False
    kind = np.iinfo(into[1].dtype)
    if kind.bits != 8 or into[1].dtype != out[1].dtype:
        return False
    steps = np.arange(kind.min, kind.max + 1, dtype=np.float32) - np.float32(into[1])
    with np.errstate(over="ignore", invalid="ignore"):  # NaN equals nothing
        once, twice = np.rint(steps * (into[0] / out[0])), np.rint(steps * into[0] / out[0])
    return bool(np.array_equal(once, twice))


def _convolve(
    graph: gs.Graph, source: gs.Tensor, quantize: gs.Node, picking: _Picking, channels: int
) -> None:
    weight = np.zeros((picking.before + channels + picking.behind, channels, 1, 1), np.int8)
    weight[picking.before : picking.before + channels, :, 0, 0] = np.eye(channels, dtype=np.int8)
    name = f"{quantize.outputs[0].name}.picked"
    result = gs.Variable(name, np.float32)
    attrs = {"kernel_shape": [1, 1], "strides": [picking.rows, picking.columns]}
    inputs = [source, gs.Variable(f"{name}.weight")]
    conv = gs.Node("Conv", f"{name}/Conv", attrs, inputs, [result])
    quantize.inputs[0] = result
    graph.nodes.append(conv)
    give_codes(graph, conv, 1, Codes(weight, np.array(1, np.float32), np.array(0, np.int8), None))
