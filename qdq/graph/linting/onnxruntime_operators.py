"""Which operators onnxruntime's CPU provider has integer kernels for, and which pairs end one."""

from onnx import TensorProto

from qdq.graph.linting.grids import codes_kind
from qdq.graph.linting.nodes import DQ, Node, Q, Use
from qdq.graph.linting.view import View

# What it moves codes through, if the pairs on both sides have one grid (O12).
MOVES = frozenset({
    "MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
    "Split", "DepthToSpace", "Identity",
})  # fmt: skip
JOINS = frozenset({"Add", "Mul"})
ONE_INPUT = frozenset({"AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"})
INTEGER = frozenset({"Conv", "Gemm", "MatMul", "Concat"}) | JOINS | ONE_INPUT


def readers_left(view: View, tensor: str) -> list[Use]:
    """Who reads a tensor once onnxruntime has taken every Identity out."""
    return view.uses(tensor, {"Identity"})


def decoder(view: View, tensor: str) -> Node | None:
    """The DQ that a tensor comes from once every Identity is taken out."""
    return view.dq(tensor, {"Identity"})


def ends_an_integer_operator(view: View, dequantizer: Node) -> bool:
    """Whether the Q of a pair is what lets the operator in front of it run in integers."""
    quantizer = view.pair(dequantizer)
    if quantizer is None:
        return False
    ahead = view.maker(view.source(quantizer.input(0), {"Relu", "Clip", *MOVES}))
    reads = ahead is not None and any(decoder(view, name) is not None for name in ahead.inputs)
    return ahead is not None and ahead.op in INTEGER and reads


def readers_of_int8(view: View, quantizer: Node) -> int:
    """How many nodes and outputs read what a Q makes, decoded; 0 if its codes are not int8.

    On x86 onnxruntime makes uint8 of int8 codes only where this is 1 (O27).
    """
    if codes_kind(view, quantizer) != TensorProto.INT8:
        return 0
    return len(view.uses(quantizer.result, {DQ, "Identity"}))


def is_nearest(node: Node) -> bool:
    """Whether a node is a Resize that picks values, and mixes none."""
    return node.op == "Resize" and node.attribute("mode", b"nearest") == b"nearest"


def moves_codes(node: Node) -> bool:
    """Whether onnxruntime may move codes through a node."""
    return node.op in MOVES or is_nearest(node)


def quantizers(uses: list[Use]) -> list[Node]:
    """The Q among the readers of a tensor."""
    return [use.node for use in uses if use.op == Q and use.node is not None]
