"""Projection shortcuts: two 1x1 convolutions whose results are added, as one."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, Array, made_by, only_reader, remove, values_of
from qdq.graph.speed.geometry import geometry
from qdq.graph.speed.quantized import Codes, constant_codes, give_codes, symmetric_weight

_HIGHEST = 127  # code of a weight


@dataclass(frozen=True, eq=False)
class _Branch:
    """A 1x1 convolution: what it reads, and what it computes with, in floats."""

    nodes: tuple[gs.Node, ...]
    data: gs.Node
    scale: float
    zero_point: Array
    weight: Array
    bias: Array
    stride: int


def merge_projections(graph: gs.Graph) -> int:
    """Add(1x1 Conv of a, 1x1 Conv of b) becomes one 1x1 Conv of Concat(a, b), on their codes.

    A branch with a stride is picked from by a MaxPool of one pixel.

    Requires: both convolutions leave through a Q that only the Add reads; int8 weights with zero
    point 0; a and b have one zero point. Ensures: the sum is rounded once instead of three times;
    the weights, rounded to one scale per channel of both, differ by up to half a step of it.
    """
    merged = 0
    for add in [each for each in graph.nodes if each.op == "Add" and len(each.inputs) == 2]:
        first, second = (_branch(graph, add, each) for each in add.inputs)
        if first is None or second is None or first.zero_point != second.zero_point:
            continue
        if first.zero_point.dtype != second.zero_point.dtype:
            continue
        if len(first.weight) == len(second.weight):
            _merge(graph, add, first, second)
            merged += 1
    return merged


def _branch(graph: gs.Graph, add: gs.Node, tensor: gs.Tensor) -> _Branch | None:
    """The convolution behind an input of the Add."""
    nodes: list[gs.Node] = []
    for op in (DEQUANTIZE, QUANTIZE, "Conv"):
        node = made_by(tensor, op)
        if node is None or only_reader(graph, tensor) is not (nodes[-1] if nodes else add):
            return None
        nodes.append(node)
        tensor = node.inputs[0]
    return _convolution(nodes)


def _convolution(nodes: list[gs.Node]) -> _Branch | None:
    conv = nodes[-1]
    weight, data = symmetric_weight(conv), made_by(conv.inputs[0], DEQUANTIZE)
    here = None if weight is None else geometry(conv, weight.values.shape)
    if weight is None or data is None or here is None or here.kernel != (1, 1):
        return None
    if any((*here.begin, *here.end)) or here.groups != 1 or len(set(here.strides)) != 1:
        return None
    scale, zero_point = values_of(data, 1), values_of(data, 2)
    if scale is None or zero_point is None or scale.size != 1 or zero_point.dtype != np.uint8:
        return None
    bias = _bias(conv, len(weight.values))
    if bias is None:
        return None
    steps = np.broadcast_to(weight.scale, len(weight.values)).astype(float)
    values = weight.values[:, :, 0, 0] * steps[:, None]
    zero = zero_point.reshape(())
    return _Branch(tuple(nodes), data, scale.item(), zero, values, bias, here.strides[0])


def _bias(conv: gs.Node, channels: int) -> Array | None:
    if len(conv.inputs) < 3 or conv.inputs[2].is_empty():
        return np.zeros(channels)
    codes = constant_codes(conv.inputs[2])
    if codes is not None:
        return np.asarray(codes.values * codes.scale.astype(float))
    values = values_of(conv, 2)
    return None if values is None else values.astype(float)


def _merge(graph: gs.Graph, add: gs.Node, first: _Branch, second: _Branch) -> None:
    """Everything in steps of the first branch's data; its scale serves both."""
    whole = np.concatenate([first.weight, second.weight * second.scale / first.scale], axis=1)
    scale = np.abs(whole).max(1) / _HIGHEST
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1).astype(np.float32)
    codes = np.rint(whole / scale[:, None]).astype(np.int8)[:, :, None, None]
    steps = scale * np.float32(first.scale)
    bias = np.clip(np.rint((first.bias + second.bias) / steps), -(2**31), 2**31 - 1)
    name = f"{add.outputs[0].name}.merged"
    parts = [_picked(graph, branch, f"{name}_{i}") for i, branch in enumerate((first, second))]
    joined, data = gs.Variable(name, np.uint8), gs.Variable(f"{name}.values", np.float32)
    operands = [joined, *first.data.inputs[1:]]
    result = add.outputs[0]
    for node in (add, *first.nodes, *second.nodes):
        remove(graph, node)
    inputs = [data, gs.Variable(f"{name}.weight"), gs.Variable(f"{name}.bias")]
    conv = gs.Node("Conv", f"{name}/Conv", {"kernel_shape": [1, 1]}, inputs, [result])
    graph.nodes += [
        gs.Node("Concat", f"{name}/Concat", {"axis": 1}, parts, [joined]),
        gs.Node(DEQUANTIZE, f"{name}/{DEQUANTIZE}", {}, operands, [data]),
        conv,
    ]
    zeros = np.zeros(len(scale), np.int8)
    give_codes(graph, conv, 1, Codes(codes, scale, zeros, 0))
    give_codes(graph, conv, 2, Codes(bias.astype(np.int32), steps, zeros.astype(np.int32), 0))


def _picked(graph: gs.Graph, branch: _Branch, name: str) -> gs.Tensor:
    codes = branch.data.inputs[0]
    if branch.stride == 1:
        return codes
    picked = gs.Variable(f"{name}.picked", np.uint8)
    attrs = {"kernel_shape": [1, 1], "strides": [branch.stride] * 2}
    graph.nodes.append(gs.Node("MaxPool", f"{name}/MaxPool", attrs, [codes], [picked]))
    return picked
