"""TensorRT's rules on types, scales, axes and opsets: T01-T07, T15, T22."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from onnx import TensorProto

from tests.checking.qdq_graph import DQ, WEIGHTED, Graph, Q
from tests.checking.quantized_weights import quantized_weights
from tests.checking.violation import Violation, found

REFUSED: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT4: "uint4",
}
OPSET_OF: dict[int, int] = {
    TensorProto.FLOAT8E4M3FN: 19,
    TensorProto.FLOAT8E5M2: 19,
    TensorProto.INT4: 21,
    TensorProto.FLOAT4E2M1: 23,
}
INTEGER_OPS = (
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "QLinearAdd",
    "QGemm",
)


def zero_points_are_zero(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(Q, DQ):
        zero_point = graph.zero_point(node)
        if zero_point is not None and np.any(zero_point.astype(np.int64) != 0):
            yield found("T01", node, f"zero point {zero_point.ravel()[0]}")


def codes_are_signed(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(Q, DQ):
        kind = REFUSED.get(graph.codes(node))
        if kind:
            yield found("T02", node, f"codes are {kind}")


def one_scale_per_activation_many_per_weight(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(Q):
        scale = graph.scale(node)
        if not graph.constant(node.input[0]) and scale is not None and scale.size > 1:
            yield found("T03", node, f"{scale.size} scales for an activation")
    for weight in quantized_weights(graph):
        if weight.axis is None and weight.channels > 1:
            yield found("T03", weight.layer, f"one scale for {weight.channels} output channels")


def weight_scales_follow_the_channels(graph: Graph) -> Iterator[Violation]:
    for weight in quantized_weights(graph):
        if weight.axis is not None and weight.axis != weight.channel_axis:
            why = f"weight scales along axis {weight.axis} instead of {weight.channel_axis}"
            yield found("T04", weight.layer, why)


def the_opset_knows_the_codes(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(Q, DQ):
        scale = graph.scale(node)
        many = scale is not None and scale.ndim > 0 and scale.size > 1
        needed = max(OPSET_OF.get(graph.codes(node), 0), 13 if many else 0)
        if graph.opset < needed:
            yield found("T05", node, f"needs opset {needed}, the file has {graph.opset}")


def no_integer_operators(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*INTEGER_OPS):
        yield found("T07", node, f"{node.op_type} is onnxruntime's own")


def readers_of_a_tensor_agree_on_its_scale(graph: Graph) -> Iterator[Violation]:
    siblings: dict[str, list[int]] = {}
    quantizers = [node for node in graph.of(Q) if not graph.constant(node.input[0])]
    for index, node in enumerate(quantizers):
        siblings.setdefault(node.input[0], []).append(index)
    for tensor, group in siblings.items():
        for one, other in combinations(group, 2):
            if not graph.same_steps(quantizers[one], quantizers[other]):
                yield found("T15", quantizers[other], f"a second scale for {tensor}")


def biases_are_float(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*WEIGHTED - {"MatMul"}):
        if len(node.input) > 2 and graph.dq(node.input[2]) is not None:
            yield found("T22", node, "its bias is quantized")


CHECKS = (
    zero_points_are_zero,
    codes_are_signed,
    one_scale_per_activation_many_per_weight,
    weight_scales_follow_the_channels,
    the_opset_knows_the_codes,
    no_integer_operators,
    readers_of_a_tensor_agree_on_its_scale,
    biases_are_float,
)
