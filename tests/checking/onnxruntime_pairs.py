"""onnxruntime's rules on all other pairs: O09-O14, O17, O21-O23."""

from collections.abc import Iterator

from onnx import NodeProto, TensorProto

from tests.checking.onnxruntime_kernels import held_range
from tests.checking.qdq_graph import ACTIVATIONS, DQ, WEIGHTED, Graph, Q
from tests.checking.violation import Violation, found

# What it moves codes through, if the pairs on both sides have the same steps.
MOVES = frozenset({
    "MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
    "Split", "DepthToSpace", "Identity",
})  # fmt: skip
JOINED = frozenset({"Add", "Mul"})
ONE_INPUT = frozenset({"AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"})
INTEGER = WEIGHTED - {"ConvTranspose"} | JOINED | ONE_INPUT | {"Concat"}


def boundaries_are_complete(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(Q, DQ):
        if graph.codes(node) == TensorProto.INT32:
            continue  # a bias, whose zero point is 0 with or without the input
        if graph.zero_point(node) is None:
            yield found("O23", node, "no constant zero point")
        if graph.scale(node) is None:
            yield found("O23", node, "its scale is no constant")
        elif graph.scale(node).size > 1 and not graph.constant(node.input[0]):  # type: ignore[union-attr]
            yield found("O23", node, "many scales for an activation")


def sums_and_products_are_whole(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*JOINED):
        held = [_held_to_compute(graph, name) for name in node.input]
        if not any(held) or _is_an_activation(graph, node) or _adds_a_bias(graph, node):
            continue
        if not all(held):
            floats = [name for name, has in zip(node.input, held, strict=True) if not has]
            residual = node.op_type == "Add" and graph.layer(floats[0]) is not None
            yield found("O10" if residual else "O09", node, f"{floats[0]} is float, the other int8")
        yield from _gives_codes(graph, node, "O09")


def _held_to_compute(graph: Graph, name: str) -> bool:
    """Whether a DQ makes it; rows picked from a table are int8 to be small, and added as floats."""
    pair = graph.dq(name)
    picked = None if pair is None else graph.maker(pair.input[0])
    return pair is not None and (picked is None or picked.op_type != "Gather")


def concats_are_whole(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Concat"):
        held = [graph.dq(name) is not None for name in node.input]
        if any(held) and not all(held):
            yield found("O11", node, f"{node.input[held.index(False)]} is float, others int8")
        if any(held):
            yield from _gives_codes(graph, node, "O11")


def operators_of_one_input_are_whole(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*ONE_INPUT):
        if graph.dq(node.input[0]) is not None and not _carried_along(graph, node):
            yield from _gives_codes(graph, node, "O13")


def moved_codes_keep_their_steps(graph: Graph) -> Iterator[Violation]:
    for node in graph.nodes:
        ahead = graph.dq(node.input[0]) if node.input else None
        if ahead is None or not (node.op_type in MOVES or _is_nearest(node)):
            continue
        for use in (use for name in node.output for use in graph.uses(name)):
            if use.op == Q and use.node is not None and not graph.same_steps(ahead, use.node):
                yield found("O12", node, "the pairs on its two sides have different steps")


def pairs_touch_integers(graph: Graph) -> Iterator[Violation]:
    """Each pair ends or begins an operator that has an int8 kernel, or moves codes (O14, O21)."""
    for pair in graph.of(DQ):
        if graph.constant(pair.input[0]) or _ends_an_integer_operator(graph, pair):
            continue
        if _ends_a_mover(graph, pair):
            continue
        uses = graph.uses(pair.output[0], MOVES)
        if not any(use.op in INTEGER | {"Resize", "ConvTranspose", Q} for use in uses):
            ops = sorted({use.op or "output of the graph" for use in uses})
            rule = "O21" if ops in ([], ["output of the graph"]) else "O14"
            yield found(rule, pair, f"a pair between float operators: {', '.join(ops)}")


def no_pair_of_its_own_for_what_runs_float(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Resize", "ReduceMean", "ConvTranspose"):
        held = [pair for name in node.input if (pair := graph.dq(name)) is not None]
        own = [pair for pair in held if not _ends_an_integer_operator(graph, pair)]
        if own and not _is_nearest(node):
            yield found("O14", node, "no int8 kernel: it runs float between the pairs")


def _gives_codes(graph: Graph, node: NodeProto, rule: str) -> Iterator[Violation]:
    """One Q behind a node, of the type of the codes in front; a ReLU between is dropped (O03)."""
    uses = graph.uses(node.output[0])
    if len(uses) == 1 and uses[0].op == "Relu" and uses[0].node is not None and rule == "O09":
        relu = uses[0].node
        uses = graph.uses(relu.output[0])
        if len(uses) == 1 and uses[0].op == Q and uses[0].node is not None:
            if held_range(graph, uses[0].node)[0] < 0:
                yield found("O04", node, "codes behind its Relu reach below zero")
            return
    behind = [use.node for use in uses if use.op == Q and use.node is not None]
    if len(uses) > 1 and behind:
        yield found("O17", node, f"its output is read {len(uses)} times")
    elif not behind:
        yield found(rule, node, "no Q behind it")
    else:
        ahead = {graph.codes(pair) for name in node.input if (pair := graph.dq(name)) is not None}
        if ahead != {graph.codes(behind[0])}:
            yield found(rule, node, "the codes on its two sides are of different types")


def _ends_an_integer_operator(graph: Graph, pair: NodeProto) -> bool:
    """Whether the Q of a pair is what lets the operator in front of it run in integers."""
    quantizer = graph.maker(pair.input[0])
    if quantizer is None:
        return False
    ahead = graph.maker(graph.source(quantizer.input[0], {"Relu", "Clip"} | MOVES))
    return ahead is not None and ahead.op_type in INTEGER and any(map(graph.dq, ahead.input))


def _adds_a_bias(graph: Graph, node: NodeProto) -> bool:
    """Whether an addition is the bias of a MatMul, as int32: the runtime folds it to float."""
    held = [pair for name in node.input if (pair := graph.dq(name)) is not None]
    return all(graph.codes(pair) == TensorProto.INT32 for pair in held)


def _ends_a_mover(graph: Graph, pair: NodeProto) -> bool:
    """Whether a pair stands behind an operator through which codes are moved (O12)."""
    mover = graph.maker(graph.bare(pair.output[0]))
    moves = mover is not None and (mover.op_type in MOVES or mover.op_type == "Resize")
    return moves and graph.dq(mover.input[0]) is not None  # type: ignore[union-attr]


def _is_an_activation(graph: Graph, node: NodeProto) -> bool:
    """Whether a product is x * f(x) in float, and x the output pair of an integer operator."""
    held = [name for name in node.input if graph.dq(name) is not None]
    floats = [name for name in node.input if name not in held]
    if node.op_type != "Mul" or len(floats) != 1:
        return False
    pair = graph.dq(held[0])
    origin = graph.bare(graph.source(floats[0], ACTIVATIONS))
    own = origin == graph.bare(held[0])
    return own and pair is not None and _ends_an_integer_operator(graph, pair)


def _carried_along(graph: Graph, node: NodeProto) -> bool:
    """Whether a node only reads, in float, the output pair of an integer operator."""
    pair = graph.dq(node.input[0])
    return (
        pair is not None and _ends_an_integer_operator(graph, pair) and not _quantized(graph, node)
    )


def _quantized(graph: Graph, node: NodeProto) -> bool:
    return any(use.op == Q for use in graph.uses(node.output[0]))


def _is_nearest(node: NodeProto) -> bool:
    modes = [each.s for each in node.attribute if each.name == "mode"]
    return node.op_type == "Resize" and (not modes or modes[0] == b"nearest")


CHECKS = (
    boundaries_are_complete,
    sums_and_products_are_whole,
    concats_are_whole,
    operators_of_one_input_are_whole,
    moved_codes_keep_their_steps,
    pairs_touch_integers,
    no_pair_of_its_own_for_what_runs_float,
)
