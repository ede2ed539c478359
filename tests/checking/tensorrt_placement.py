"""TensorRT's rules on where pairs stand: T08-T14, T16, T21, T24, T27-T30."""

from collections.abc import Iterator

from onnx import NodeProto

from tests.checking.qdq_graph import (
    ACTIVATIONS,
    DQ,
    MOVERS,
    POINTWISE,
    POOLS,
    WEIGHTED,
    Graph,
    Q,
    Use,
)
from tests.checking.regions import outputs_in_blocks, residual_sides, silu_regions
from tests.checking.violation import Violation, found

# What has an int8 kernel of its own, so that a pair in front of it serves it.
SERVED = WEIGHTED | POOLS | {"Add", "Sub", "Mul", "Resize", "Upsample"}
NO_OWN_PAIR = frozenset({
    "ArgMax", "Concat", "Gather", "GatherElements", "GatherND", "InstanceNormalization",
    "LeakyRelu", "Pad", "Relu", "Reshape", "Slice", "Sigmoid", "Softmax", "Split", "Squeeze",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
COPIES = MOVERS | {"Concat"}


def pairs(graph: Graph) -> Iterator[NodeProto]:
    """The DequantizeLinear of every pair on an activation."""
    for node in graph.of(DQ):
        if not graph.constant(node.input[0]):
            yield node


def all_factors_or_none(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*WEIGHTED):
        factors = node.input[:2]
        held = [graph.dq(name, MOVERS) is not None for name in factors]
        if any(held) and not all(held):
            yield found("T08", node, f"{factors[held.index(False)]} is float, the other int8")


def activations_follow_their_layer(graph: Graph) -> Iterator[Violation]:
    regions = {sigmoid.output[0]: x for sigmoid, _, x in silu_regions(graph)}
    for pair in pairs(graph):
        bare = graph.bare(pair.output[0])
        behind = graph.layer(bare)
        if behind is None or graph.op(bare) == "BatchNormalization":
            continue  # T10 speaks of those
        for use in graph.uses(pair.output[0], MOVERS):
            if use.node is None or use.op not in ACTIVATIONS:
                continue
            if use.node.output[0] not in regions:
                yield found("T09", use.node, f"a pair between {behind.op_type} and {use.op}")


def silu_stays_whole(graph: Graph) -> Iterator[Violation]:
    for sigmoid, product, x in silu_regions(graph):
        inside = [name for name in (*sigmoid.input, *product.input) if graph.dq(name)]
        if inside and graph.layer(x):
            yield found("T24", product, f"a pair inside x * sigmoid(x): {inside[0]}")


def batch_norms_stay_whole(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("BatchNormalization"):
        behind = graph.layer(graph.bare(node.input[0]))
        if behind is not None and graph.dq(node.input[0]):
            yield found("T10", node, f"a pair between {behind.op_type} and BatchNormalization")
        for use in graph.uses(node.output[0], {Q, DQ}):
            pair = use.node is not None and graph.dq(use.node.input[use.index])
            if pair and use.op in ACTIVATIONS:
                yield found("T10", node, f"a pair between BatchNormalization and {use.op}")
            if pair and use.op in WEIGHTED and graph.layer(node.output[0]) is None:
                yield found("T29", node, f"cannot be folded into {use.op} across a pair")


def residual_additions(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Add"):
        sides = residual_sides(graph, node)
        if sides is None:
            continue
        skip, ending = sides
        layer = graph.layer(graph.bare(ending))
        if graph.dq(ending):
            yield found("T12", node, f"a pair between {_op(layer)} and Add")
        int8 = layer is not None and bool(graph.quantized_inputs(layer))
        if int8 and _op(layer) in ("Conv", "ConvTranspose") and not graph.dq(skip, MOVERS):
            yield found("T11", node, f"the skip input {skip} is float")


def int8_in_int8_out(graph: Graph) -> Iterator[Violation]:
    whole = {product.output[0] for _, product, x in silu_regions(graph) if graph.layer(x)}
    float_blocks = outputs_in_blocks(graph)
    for node in graph.of(*POOLS, "Add", "Sub", "Mul", "Resize", "Upsample"):
        if node.output[0] in float_blocks:
            continue  # T20 speaks of them
        moving = graph.moving(node)
        held = [name for name in moving if graph.dq(name, MOVERS)]
        if not held or (len(moving) < len(node.input[:2]) and node.op_type in POINTWISE):
            continue  # T23 speaks of constants
        if not _reaches_a_quantizer(graph, node.output[0]):
            yield found("T13", node, "reads int8 and gives float")
        floats = [name for name in moving if name not in held]
        if floats and node.output[0] not in whole and not _fusible(graph, node, floats[0]):
            yield found("T13", node, f"reads int8 and, as {floats[0]}, float")


def pairs_serve_somebody(graph: Graph) -> Iterator[Violation]:
    """A pair whose reader has no int8 kernel; the id says what it is that reads it."""
    float_blocks = outputs_in_blocks(graph)
    for pair in pairs(graph):
        uses = graph.uses(pair.output[0], COPIES)
        behind = graph.layer(graph.bare(pair.output[0]))
        for use in uses:
            if use.op in NO_OWN_PAIR and (behind is None or use.op not in ACTIVATIONS):
                yield found("T21", pair, f"a pair in front of {use.op}")
        judged = SERVED | NO_OWN_PAIR | {"BatchNormalization", Q}
        judged |= ACTIVATIONS if behind is not None else set()
        if any(use.op in judged or _makes(use, float_blocks) for use in uses):
            continue
        yield found(_useless(graph, pair), pair, f"a pair that serves nobody: {_ops(uses)}")


def tables_stay_float(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Gather", "GatherElements", "GatherND"):
        if graph.constant(node.input[0]) and graph.dq(node.input[0]):
            yield found("T21", node, f"a pair on the table of {node.op_type}")


def moved_codes_need_no_second_pair(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(Q):
        if not graph.constant(node.input[0]) and graph.dq(node.input[0], MOVERS):
            why = f"a second pair behind {graph.op(node.input[0])}, which moves codes"
            yield found("T14", node, why)


def concat_has_one_scale(graph: Graph) -> Iterator[Violation]:
    for node in graph.of("Concat"):
        ahead = [pair for name in node.input if (pair := graph.dq(name, MOVERS)) is not None]
        behind = [use.node for use in graph.uses(node.output[0], MOVERS) if use.op == Q]
        steps = [*ahead, *(each for each in behind if each is not None)]
        if ahead and not all(graph.same_steps(steps[0], each) for each in steps[1:]):
            yield found("T16", node, "its quantized inputs and output have different scales")
        if ahead and behind and len(ahead) < len(node.input):
            yield found("T16", node, "some of its inputs are int8, some float")


def outputs_of_other_operators_stay_float(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*POOLS, "Add", "Sub", "Mul"):
        if node.output[0] in graph.outputs and graph.quantized_inputs(node):
            yield found("T27", node, f"an int8 {node.op_type} gives an output of the graph")


def pools_need_a_quantized_neighbour(graph: Graph) -> Iterator[Violation]:
    for node in graph.of(*POOLS):
        if not graph.dq(node.input[0], MOVERS):
            continue
        ahead = graph.maker(graph.source(graph.bare(node.input[0]), ACTIVATIONS | MOVERS))
        behind = graph.uses(node.output[0], MOVERS | ACTIVATIONS | {Q, DQ})
        before = ahead is not None and bool(graph.quantized_inputs(ahead))
        if not before and not any(_takes_codes(graph, use) for use in behind):
            yield found("T28", node, "an int8 pool between float layers")


def padding_stays_with_its_conv(graph: Graph) -> Iterator[Violation]:
    for pair in pairs(graph):
        uses = graph.uses(pair.output[0])
        if graph.op(graph.bare(pair.output[0])) == "Pad" and any(use.op == "Conv" for use in uses):
            yield found("T30", pair, "a pair between Pad and Conv")


def _reaches_a_quantizer(graph: Graph, tensor: str) -> bool:
    return any(use.op == Q for use in graph.uses(tensor, COPIES | ACTIVATIONS))


def _fusible(graph: Graph, node: NodeProto, tensor: str) -> bool:
    """Whether a float input of an addition comes from a layer, its activation applied or not."""
    silu = {product.output[0]: x for _, product, x in silu_regions(graph)}
    ahead = silu.get(tensor) or graph.source(tensor, ACTIVATIONS)
    return node.op_type == "Add" and graph.layer(ahead) is not None


def _takes_codes(graph: Graph, use: Use) -> bool:
    served = use.node is not None and use.op in SERVED
    return served and graph.dq(use.node.input[use.index], MOVERS) is not None  # type: ignore[union-attr]


def _useless(graph: Graph, pair: NodeProto) -> str:
    """The rule against a pair that serves nobody."""
    if pair.output[0] in graph.outputs:
        return "T27"
    if graph.layer(graph.bare(pair.output[0])) is not None:
        return "T09"
    return "T21" if {use.op for use in graph.uses(pair.output[0])} & NO_OWN_PAIR else "T14"


def _makes(use: Use, tensors: set[str]) -> bool:
    return use.node is not None and use.node.output[0] in tensors


def _op(node: NodeProto | None) -> str:
    return node.op_type if node is not None else ""


def _ops(uses: list[Use]) -> str:
    return ", ".join(sorted({use.op or "output of the graph" for use in uses})) or "no reader"


CHECKS = (
    all_factors_or_none,
    activations_follow_their_layer,
    silu_stays_whole,
    batch_norms_stay_whole,
    residual_additions,
    int8_in_int8_out,
    pairs_serve_somebody,
    tables_stay_float,
    moved_codes_need_no_second_pair,
    concat_has_one_scale,
    outputs_of_other_operators_stay_float,
    pools_need_a_quantized_neighbour,
    padding_stays_with_its_conv,
)
