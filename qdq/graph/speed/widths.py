"""Channels between convolutions, padded to the blocks that integer kernels work in."""

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, Array, infer_shapes, is_output, values_of
from qdq.graph.speed.quantized import (
    ALIGNED,
    FEWEST,
    Codes,
    constant_codes,
    give_codes,
    scalar_grid,
    symmetric_weight,
)

_DEPTHWISE = 16  # channels that depthwise kernels work on at a time
_GROWTH = 2  # times as many channels at most
# Ops that leave each channel where it is.
_KEEPING = (QUANTIZE, DEQUANTIZE, "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")


class _Stretch:
    """Tensors that have the same channels, and the convolutions around and among them."""

    def __init__(self) -> None:
        self.tensors: list[gs.Variable] = []
        self.makers: list[gs.Node] = []
        self.depthwise: list[gs.Node] = []
        self.readers: list[gs.Node] = []
        self.free = True


def pad_channels(graph: gs.Graph) -> int:
    """Channels that only integer convolutions make and read get more, which hold zeros.

    To multiples of four and at least 16; of 16 where a depthwise convolution is among them.

    Requires: int8 weights with zero point 0; between the convolutions only ops that keep channels
    apart; no output of the graph. At most twice the channels. Ensures: equal integer sums, for
    what reads the new channels multiplies them by zero.
    """
    infer_shapes(graph)
    padded = 0
    for stretch in _stretches(graph):
        channels = {_weight_shape(node)[0] for node in (*stretch.makers, *stretch.depthwise)}
        if not stretch.free or not stretch.makers or not stretch.readers or len(channels) != 1:
            continue
        width = channels.pop()
        block = _DEPTHWISE if stretch.depthwise else ALIGNED
        more = max(-(-width // block) * block, FEWEST) - width
        if more and width + more <= _GROWTH * width:
            _widen(graph, stretch, more)
            padded += 1
    return padded


def _stretches(graph: gs.Graph) -> list[_Stretch]:
    """Each tensor that a dense convolution makes, with all that is tied to it."""
    seen: set[int] = set()
    found = []
    for conv in [each for each in graph.nodes if each.op == "Conv"]:
        if id(conv.outputs[0]) not in seen and conv.attrs.get("group", 1) == 1:
            stretch, work = _Stretch(), [conv.outputs[0]]
            while work:
                tensor = work.pop()
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    stretch.tensors.append(tensor)
                    work += _tied(graph, stretch, tensor)
            found.append(stretch)
    return found


def _tied(graph: gs.Graph, stretch: _Stretch, tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    """Tensors with the same channels as this one, one op away; what stands there is noted."""
    stretch.free &= bool(tensor.inputs) and not is_output(graph, tensor)
    for node in (*tensor.inputs, *tensor.outputs):
        if node.op == "Conv" and symmetric_weight(node) is not None:
            if not _is_depthwise(node):
                made = tensor in node.outputs
                _note(stretch, stretch.makers if made else stretch.readers, node)
                continue
            _note(stretch, stretch.depthwise, node)
        elif not _keeps_channels(node):
            stretch.free = False
            continue
        sources = node.inputs if node.op in ("Add", "Sum") else node.inputs[:1]
        yield from (*sources, *node.outputs)


def _note(stretch: _Stretch, kind: list[gs.Node], node: gs.Node) -> None:
    if not any(each is node for each in kind):
        kind.append(node)
    biased = len(node.inputs) > 2
    if node.attrs.get("group", 1) != 1 and not _is_depthwise(node):
        stretch.free = False
    if biased and constant_codes(node.inputs[2]) is None and values_of(node, 2) is None:
        stretch.free = False


def _weight_shape(conv: gs.Node) -> tuple[int, ...]:
    weight = symmetric_weight(conv)
    assert weight is not None  # _tied asked for it
    shape: tuple[int, ...] = weight.values.shape
    return shape


def _is_depthwise(conv: gs.Node) -> bool:
    outputs, inputs = _weight_shape(conv)[:2]
    return bool(conv.attrs.get("group", 1) == outputs and inputs == 1 and outputs > 1)


def _keeps_channels(node: gs.Node) -> bool:
    if node.op in (QUANTIZE, DEQUANTIZE):
        return scalar_grid(node) is not None
    if node.op in ("Add", "Sum"):
        shapes = [each.shape for each in node.inputs]
        return all(s is not None and len(s) == 4 and s[1] == shapes[0][1] for s in shapes)
    return node.op in _KEEPING and len(node.outputs) == 1


def _widen(graph: gs.Graph, stretch: _Stretch, more: int) -> None:
    for node in (*stretch.makers, *stretch.depthwise):
        _pad_rows(graph, node, 1, more)
        if len(node.inputs) > 2:
            _pad_rows(graph, node, 2, more)
    for node in stretch.depthwise:
        node.attrs["group"] += more
    for node in stretch.readers:
        weight = symmetric_weight(node)
        assert weight is not None  # _tied asked for it
        values = _padded(weight.values, 1, more)
        give_codes(graph, node, 1, Codes(values, weight.scale, weight.zero_point, weight.axis))
    for tensor in stretch.tensors:
        tensor.shape = None


def _pad_rows(graph: gs.Graph, node: gs.Node, index: int, more: int) -> None:
    """Zeros for more channels out, in a weight or bias."""
    codes = constant_codes(node.inputs[index])
    if codes is None:
        name = f"{node.inputs[index].name}/{node.outputs[0].name}"
        node.inputs[index] = gs.Constant(name, _padded(node.inputs[index].values, 0, more))
        return
    scale, zero_point = codes.scale, codes.zero_point
    if scale.ndim:
        scale, zero_point = (np.pad(each, (0, more), mode="edge") for each in (scale, zero_point))
    give_codes(
        graph, node, index, Codes(_padded(codes.values, 0, more), scale, zero_point, codes.axis)
    )


def _padded(values: Array, axis: int, more: int) -> Array:
    return np.pad(values, [(0, more if each == axis else 0) for each in range(values.ndim)])
