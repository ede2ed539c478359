"""TensorRT's rules on attention, norms, constants and layers too small to gain: T18-T20, T23."""

from collections.abc import Iterator

from onnx import NodeProto

from tests.checking.qdq_graph import MOVERS, POINTWISE, Graph, attribute
from tests.checking.quantized_weights import constant_weights
from tests.checking.regions import (
    gelus,
    layer_norms,
    masked_attentions,
    outputs_in_blocks,
)
from tests.checking.violation import Violation, found

SMALLEST = 16  # channels, or rows and columns of a matrix


def norms_stay_float(graph: Graph) -> Iterator[Violation]:
    for x, nodes in layer_norms(graph):
        behind = graph.layer(graph.bare(x))
        allowed = {x} if behind is not None and behind.op_type == "Conv" else set()  # T25
        for node in nodes:
            inside = [name for name in graph.quantized_inputs(node) if name not in allowed]
            if inside:
                yield found("T20", node, f"a pair in a layer norm: {inside[0]}")


def gelu_stays_float(graph: Graph) -> Iterator[Violation]:
    for nodes in gelus(graph):
        for node in nodes:
            for name in graph.quantized_inputs(node):
                yield found("T20", node, f"a pair in a GELU: {name}")


def masked_attention_stays_float(graph: Graph) -> Iterator[Violation]:
    for product, masking in masked_attentions(graph):
        if product is not None and graph.quantized_inputs(product):
            yield found("T20", product, "queries times keys in int8 in front of a mask")
        if graph.quantized_inputs(masking):
            yield found("T20", masking, "a pair at the addition of the mask")
        readers = [use.node for use in graph.uses(masking.output[0]) if use.op != "Softmax"]
        if any(node is not None and node.op_type == "QuantizeLinear" for node in readers):
            yield found("T20", masking, "a pair between the mask and Softmax")


def pointwise_with_a_constant_stays_float(graph: Graph) -> Iterator[Violation]:
    float_blocks = outputs_in_blocks(graph)
    for node in graph.of(*POINTWISE):
        if node.output[0] in float_blocks:
            continue  # T20 speaks of them
        if any(graph.constant(name) for name in node.input) and graph.quantized_inputs(node):
            yield found("T23", node, f"{node.op_type} with a constant reads int8")


def small_layers_stay_float(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Gemm", "MatMul", "Conv"):
        if graph.quantized_inputs(node) and is_small(graph, node):
            rule = "T19" if node.op_type == "Conv" else "T18"
            yield found(rule, node, f"too small for int8: {graph.shape(node.input[1])}")


def convolutions_with_a_varying_weight_stay_float(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Conv"):
        if graph.quantized_inputs(node) and not constant_weights(graph, node):
            yield found("T19", node, "an int8 Conv whose weight varies")


def is_small(graph: Graph, node: NodeProto) -> bool:
    """Whether int8 gains nothing here; sizes the file leaves open count as large (T18, T19)."""
    if node.op_type == "Conv":
        return _is_small_convolution(graph, node)
    left, right = graph.shape(node.input[0]), graph.shape(node.input[1])
    if node.op_type == "ConvTranspose" or not left or not right:
        return False
    turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
    K, N = (right[-1], right[-2]) if turned else (right[-2], right[-1])
    return 1 in (left[-2], N) or any(each is not None and each < SMALLEST for each in (K, N))


def _is_small_convolution(graph: Graph, node: NodeProto) -> bool:
    weight = graph.shape(node.input[1])
    if weight is None or any(each is None for each in weight):
        return False
    group = attribute(node, "group", 1)
    outputs, inputs = weight[0] or 0, (weight[1] or 0) * group
    if min(outputs, inputs) >= SMALLEST:
        return False
    kernel = [each or 0 for each in weight[2:]]
    if group > 1:
        return not (outputs % 8 == 0 and min(kernel) >= 3)
    first = graph.op(graph.source(graph.bare(node.input[0]), MOVERS)) == ""
    square = len(set(kernel)) == 1
    eight = outputs % 8 == 0 or inputs % 8 == 0
    return not (eight and square and (first or max(outputs, inputs) >= SMALLEST))


CHECKS = (
    norms_stay_float,
    gelu_stays_float,
    masked_attention_stays_float,
    pointwise_with_a_constant_stays_float,
    convolutions_with_a_varying_weight_stay_float,
)
SMALL_LAYERS = (small_layers_stay_float,)
