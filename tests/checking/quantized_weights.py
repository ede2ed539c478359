"""The constant weights of layers: their pairs, and the axis that keeps one scale per entry."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from tests.checking.qdq_graph import DQ, WEIGHTED, Graph, Q, attribute

MOVED = frozenset({"Transpose", "Identity"})


@dataclass(frozen=True)
class Weight:
    """A constant weight with a DequantizeLinear.

    Attributes:
        layer: the node that multiplies by it.
        dq: its DequantizeLinear.
        axis: axis with one scale per entry, as the layer sees the weight; None: one scale in all.
        channel_axis: the axis of output channels, as the layer sees the weight.
        channels: how long that axis is.
    """

    layer: NodeProto
    dq: NodeProto
    axis: int | None
    channel_axis: int
    channels: int


def constant_weights(graph: Graph, layer: NodeProto) -> list[str]:
    """The factors of a layer that are constants: its weight, rarely a MatMul's first."""
    return [name for name in layer.input[:2] if graph.constant(name)]


def quantized_weights(graph: Graph) -> Iterator[Weight]:
    """Every constant weight that has a pair, or codes and a DequantizeLinear."""
    for layer in graph.of(*WEIGHTED):
        for name in constant_weights(graph, layer):
            dq = graph.dq(name, MOVED)
            if dq is None:
                continue
            shape = list(_float_shape(graph, dq))
            axes = _order(graph, name, len(shape))
            scale = graph.scale(dq)
            axis = None
            if scale is not None and scale.size > 1:
                axis = axes.index(attribute(dq, "axis", 1) % len(shape))
            want = _channel_axis(layer, len(shape), first=name == layer.input[0])
            yield Weight(layer, dq, axis, want, shape[axes[want]])


def codes_of(graph: Graph, dq: NodeProto) -> np.ndarray | None:
    """The integers of a weight, quantized here if the file holds it as float."""
    held = graph.value(dq.input[0])
    quantizer = graph.maker(dq.input[0])
    if held is not None or quantizer is None or quantizer.op_type != Q:
        return held
    weight, scale = graph.value(quantizer.input[0]), graph.scale(quantizer)
    if weight is None or scale is None:
        return None
    if scale.size > 1:
        lengths = [1] * weight.ndim
        lengths[attribute(quantizer, "axis", 1)] = scale.size
        scale = scale.reshape(lengths)
    codes: np.ndarray = np.clip(np.rint(weight / scale), -128, 127).astype(np.int8)
    return codes


def _float_shape(graph: Graph, dq: NodeProto) -> tuple[int, ...]:
    codes = codes_of(graph, dq)
    assert codes is not None, f"{dq.op_type} -> {dq.output[0]} holds no constant"
    return codes.shape


def _order(graph: Graph, tensor: str, rank: int) -> list[int]:
    """For each axis as the layer sees it, the axis of the dequantized tensor."""
    axes = list(range(rank))
    node = graph.maker(tensor)
    while node is not None and node.op_type != DQ:
        if node.op_type == "Transpose":
            turned = [helper.get_attribute_value(each) for each in node.attribute]
            order = turned[0] if turned else list(reversed(range(rank)))
            axes = [order[axis] for axis in axes]
        node = graph.maker(node.input[0])
    return axes


def _channel_axis(layer: NodeProto, rank: int, first: bool) -> int:
    """Where a layer keeps its output channels (T04)."""
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1
    if layer.op_type == "Gemm":
        return 0 if attribute(layer, "transB", 0) else 1
    return rank - 2 if first else rank - 1
