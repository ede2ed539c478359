"""onnxruntime's rules on layers with weights: O01-O07, O14-O17, O20, O25, O26."""

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from tests.checking.qdq_graph import MOVERS, Graph, Q, attribute
from tests.checking.quantized_weights import codes_of, quantized_weights
from tests.checking.violation import Violation, found

INT32_MAX = 2**31 - 1
AXIS_RULE = {"Conv": "O07", "Gemm": "O16", "MatMul": "O15"}
FACTORS_RULE = {"Conv": "O01", "Gemm": "O16", "MatMul": "O15"}


def all_factors_or_none(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*FACTORS_RULE):
        held = [graph.dq(name, MOVERS) is not None for name in node.input[:2]]
        if all(held) or not any(held):
            continue
        missing = node.input[held.index(False)]
        if node.op_type == "Conv" and graph.constant(missing):
            yield found("O26", node, f"its weight {missing} is float, its input int8")
        else:
            yield found(FACTORS_RULE[node.op_type], node, f"{missing} is float, the other int8")


def convolutions_give_codes(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Conv"):
        if not graph.quantized_inputs(node):
            continue
        uses = graph.uses(node.output[0])
        use = uses[0] if len(uses) == 1 else None
        if use is None:
            if any(each.op == Q for each in uses):
                yield found("O17", node, f"its output is read {len(uses)} times")
            else:
                yield found("O02", node, "no Q behind it")
        elif use.op in ("Relu", "Clip") and use.node is not None:
            yield from _activation_is_dropped(graph, node, use.node)
        elif use.op == "BatchNormalization":
            yield found("O20", node, "BatchNormalization behind it is not folded")
        elif use.op in ("LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "Tanh"):
            yield found("O06", node, f"{use.op} stands between it and its Q")
        elif use.op != Q:
            yield found("O02", node, f"{use.op or 'an output of the graph'} reads it as float")


def products_have_one_reader(graph: Graph) -> Iterator[Violation]:
    """Gemm and MatMul run in integers with Q behind them and without, but not with both."""
    for node in graph.of("Gemm", "MatMul"):
        uses = graph.uses(node.output[0])
        if graph.quantized_inputs(node) and len(uses) > 1 and any(use.op == Q for use in uses):
            yield found("O17", node, f"its output is read {len(uses)} times")


def weight_scales_follow_the_channels(graph: Graph) -> Iterator[Violation]:
    for weight in quantized_weights(graph):
        rule = AXIS_RULE.get(weight.layer.op_type)
        if rule and weight.axis not in (None, weight.channel_axis):
            why = f"weight scales along axis {weight.axis} instead of {weight.channel_axis}"
            yield found(rule, weight.layer, why)


def biases_are_int32(graph: Graph) -> Iterator[Violation]:
    for weight in quantized_weights(graph):
        node = weight.layer
        ahead = graph.dq(node.input[0])
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or ahead is None:
            continue
        bias = graph.dq(node.input[2])
        if bias is None or graph.codes(bias) != TensorProto.INT32:
            yield found("O16" if node.op_type == "Gemm" else "O07", node, "its bias is not int32")
            continue
        scales = [graph.scale(each) for each in (ahead, weight.dq, bias)]
        if not any(each is None for each in scales):
            x, w, b = (np.asarray(each, np.float64).ravel() for each in scales)
            if not np.allclose(b, x * w, rtol=1e-6, atol=0):
                yield found("O07", node, "the scale of its bias is not that of input times weight")


def integers_do_not_overflow(graph: Graph) -> Iterator[Violation]:
    for weight in quantized_weights(graph):
        node = weight.layer
        codes = codes_of(graph, weight.dq)
        bias = graph.dq(node.input[2]) if len(node.input) > 2 else None
        held = graph.value(bias.input[0]) if bias is not None else None
        most = 0 if held is None else int(np.abs(held.astype(np.int64)).max())
        if most >= INT32_MAX:
            yield found("O25", node, "codes of its bias are cut off at the end of int32")
        elif codes is not None and node.op_type in ("Conv", "Gemm"):
            out = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
            rows = np.moveaxis(np.abs(codes.astype(np.int64)), out, 0).reshape(codes.shape[out], -1)
            if int(rows.sum(1).max()) * 255 + most > INT32_MAX:
                yield found("O25", node, "its sums can leave int32")


def gemm_is_plain(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Gemm"):
        beta, turned = attribute(node, "beta", 1), attribute(node, "transA", 0)
        if graph.quantized_inputs(node) and (turned or beta != 1):
            yield found("O16", node, f"beta={beta} transA={turned}")


def signed_input_needs_signed_weight(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("MatMul"):
        held = [graph.dq(name, MOVERS) for name in node.input]
        kinds = [graph.codes(each) for each in held if each is not None]
        if kinds == [TensorProto.INT8, TensorProto.UINT8]:
            yield found("O15", node, "int8 times uint8")


def _activation_is_dropped(
    graph: Graph, layer: NodeProto, activation: NodeProto
) -> Iterator[Violation]:
    """O03-O05: a ReLU or Clip goes where the codes behind it cannot hold more than it lets by."""
    uses = graph.uses(activation.output[0])
    quantizers = [use.node for use in uses if use.op == Q and use.node is not None]
    if len(uses) != 1 or not quantizers:
        rule = "O17" if quantizers else "O02"
        yield found(rule, layer, f"{activation.op_type} behind it is read as float")
        return
    low, high = held_range(graph, quantizers[0])
    if activation.op_type == "Relu" and low < 0:
        yield found("O04", layer, f"codes behind its Relu reach down to {low:g}")
    if activation.op_type == "Clip":
        ends = [graph.value(name) if name else None for name in activation.input[1:3]]
        ends += [None] * (2 - len(ends))
        least, most = (
            otherwise if end is None else float(end.reshape(()))
            for end, otherwise in zip(ends, (-np.inf, np.inf), strict=True)
        )
        step = (high - low) / 255
        if low < least - step / 2 or high > most + step / 2:
            yield found("O05", layer, f"codes reach {low:g}..{high:g}, Clip {least:g}..{most:g}")


def held_range(graph: Graph, quantizer: NodeProto) -> tuple[float, float]:
    """The least and largest value that the codes of a Q can hold."""
    ends = (-128, 127) if graph.codes(quantizer) == TensorProto.INT8 else (0, 255)
    scale, zero_point = graph.scale(quantizer), graph.zero_point(quantizer)
    step = 1.0 if scale is None else float(scale.reshape(-1)[0])
    middle = 0 if zero_point is None else int(zero_point.reshape(-1)[0])
    return (ends[0] - middle) * step, (ends[1] - middle) * step


CHECKS = (
    all_factors_or_none,
    convolutions_give_codes,
    products_have_one_reader,
    weight_scales_follow_the_channels,
    biases_are_int32,
    integers_do_not_overflow,
    gemm_is_plain,
    signed_input_needs_signed_weight,
)
