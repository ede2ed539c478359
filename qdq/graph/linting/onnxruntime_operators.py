"""Which operators onnxruntime's CPU provider has integer kernels for, and which pairs end one."""

from qdq.graph.linting.nodes import Node, Q, Use
from qdq.graph.linting.view import View

# What it moves codes through, if the pairs on both sides have one grid (O12).
MOVES = frozenset({
    "MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
    "Split", "DepthToSpace", "Identity",
})  # fmt: skip
JOINS = frozenset({"Add", "Mul"})
ONE_INPUT = frozenset({"AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"})
INTEGER = frozenset({"Conv", "Gemm", "MatMul", "Concat"}) | JOINS | ONE_INPUT


def ends_an_integer_operator(view: View, dequantizer: Node) -> bool:
    """Whether the Q of a pair is what lets the operator in front of it run in integers."""
    quantizer = view.pair(dequantizer)
    if quantizer is None:
        return False
    ahead = view.maker(view.source(quantizer.input(0), {"Relu", "Clip", *MOVES}))
    reads = ahead is not None and any(view.dq(name) is not None for name in ahead.inputs)
    return ahead is not None and ahead.op in INTEGER and reads


def is_nearest(node: Node) -> bool:
    """Whether a node is a Resize that picks values, and mixes none."""
    return node.op == "Resize" and node.attribute("mode", b"nearest") == b"nearest"


def moves_codes(node: Node) -> bool:
    """Whether onnxruntime may move codes through a node."""
    return node.op in MOVES or is_nearest(node)


def quantizers(uses: list[Use]) -> list[Node]:
    """The Q among the readers of a tensor."""
    return [use.node for use in uses if use.op == Q and use.node is not None]
