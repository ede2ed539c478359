"""TensorRT's rules on pairs of operators without weights: T13, T14, T16, T17, T21, T26-T28."""

from collections.abc import Iterator

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.grids import same_grid
from qdq.graph.linting.nodes import ACTIVATIONS, DQ, MOVERS, WEIGHTED, Node, Q, Use
from qdq.graph.linting.regions import Regions
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target

_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_SUMS = frozenset({"Add", "Sub", "Mul"})
_RESIZES = frozenset({"Resize", "Upsample"})
_WITHOUT_WEIGHTS = _POOLS | _SUMS | _RESIZES
_WITH_KERNEL = WEIGHTED | _WITHOUT_WEIGHTS
_NO_PAIR_OF_ITS_OWN = frozenset({
    "ArgMax", "Concat", "Gather", "GatherElements", "GatherND", "InstanceNormalization",
    "LeakyRelu", "Pad", "Relu", "Reshape", "Slice", "Sigmoid", "Softmax", "Split", "Squeeze",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
_THROUGH = MOVERS | {"Concat"}
_REMOVE = "remove this pair"


@checks("T13")
def int8_in_int8_out(view: View, target: Target) -> Iterator[Finding]:
    """Operators without weights that are int8 on one side only."""
    regions = Regions.of(view)
    whole = {product.result: x for _, product, x in regions.silus}
    for node in view.of(*_WITHOUT_WEIGHTS):
        moving = view.moving(node)
        held = [name for name in moving if view.dq(name, MOVERS) is not None]
        with_constant = node.op in _SUMS and len(moving) < len(node.inputs[:2])
        if not held or with_constant or node.result in regions.made:
            continue  # T23 speaks of constants, T20 of what is made in blocks
        if not any(use.op == Q for use in view.uses(node.result, _THROUGH | ACTIVATIONS)):
            fix = "quantize its output too, or remove the pairs of its inputs"
            yield found("T13", node, "it reads int8 and gives float", fix)
        floats = [name for name in moving if name not in held]
        inside = node.result in whole and view.layer(whole[node.result]) is not None
        if floats and not inside and not _is_fused(view, node, floats[0], whole):
            why = f"it reads int8 and, as {floats[0]}, float"
            yield found("T13", node, why, "quantize that input too", tensor=floats[0])


@checks("T09", "T14", "T21", "T27")
def pairs_serve_somebody(view: View, target: Target) -> Iterator[Finding]:
    """Pairs whose readers have no int8 kernel: the rule is that of what reads them."""
    made = Regions.of(view).made
    for pair in view.pairs():
        readers = view.uses(pair.result, _THROUGH)
        layer = view.layer(view.bare(pair.result))
        for use in readers:
            if use.op in _NO_PAIR_OF_ITS_OWN and (layer is None or use.op not in ACTIVATIONS):
                yield found("T21", pair, f"{use.op} has no int8 kernel", _REMOVE)
        judged = _WITH_KERNEL | _NO_PAIR_OF_ITS_OWN | {"BatchNormalization", Q}
        judged |= ACTIVATIONS if layer is not None else frozenset()
        served = any(use.op in judged or _gives(use, made) for use in readers)
        if readers and not served and not _feeds_a_plugin(readers):
            said = ", ".join(sorted({use.op or "an output of the graph" for use in readers}))
            rule = _rule_against(view, pair, layer)
            yield found(rule, pair, f"it serves nobody: read by {said}", _REMOVE)


@checks("T21")
def tables_stay_float(view: View, target: Target) -> Iterator[Finding]:
    """Quantized tables that rows are gathered from."""
    for node in view.of("Gather", "GatherElements", "GatherND"):
        table = node.input(0)
        if table and view.is_constant(table) and view.dq(table) is not None:
            why = f"its table {table} is quantized"
            yield found("T21", node, why, "write the table as float", tensor=table)


@checks("T14")
def moved_codes_need_no_second_pair(view: View, target: Target) -> Iterator[Finding]:
    """A pair behind an operator that moves the values of a pair."""
    for node in view.of(Q):
        ahead = None if view.is_constant(node.input(0)) else view.dq(node.input(0), MOVERS)
        if ahead is not None:
            mover = view.op(node.input(0))
            equal = same_grid(view, ahead, node)
            why = f"a second pair behind {mover}" + ("" if equal else ", with another grid")
            fix = f"remove it{'; --fix does' if equal and mover != 'Pad' else ''}"
            yield found("T14", node, why, fix)


@checks("T16")
def concats_have_one_scale(view: View, target: Target) -> Iterator[Finding]:
    """Concats of several grids, or of int8 and float."""
    for node in view.of("Concat"):
        ahead = [pair for name in node.inputs if (pair := view.dq(name, MOVERS)) is not None]
        uses = view.uses(node.result, MOVERS)
        behind = [use.node for use in uses if use.op == Q and use.node is not None]
        grids = [*ahead, *behind]
        if ahead and not all(same_grid(view, grids[0], each) for each in grids[1:]):
            why = "its quantized inputs and output have different scales"
            yield found("T16", node, why, "give them all one range")
        if ahead and behind and len(ahead) < len(node.inputs):
            names = [name for name in node.inputs if view.dq(name, MOVERS) is None]
            why = f"{names[0]} is float, other inputs are int8"
            yield found("T16", node, why, "quantize all inputs, or none", tensor=names[0])


@checks("T17")
def concats_in_front_of_a_conv_are_int8(view: View, target: Target) -> Iterator[Finding]:
    """A Concat of layers' float outputs whose Q serves one Conv."""
    for node in view.of("Concat"):
        uses = view.readers(node.result)
        quantizer = uses[0].node if len(uses) == 1 and uses[0].op == Q else None
        ahead = [view.layer(view.source(name, ACTIVATIONS)) for name in node.inputs]
        if quantizer is None or not all(ahead):
            continue
        readers = view.uses(quantizer.result, {DQ})
        if len(readers) == 1 and readers[0].op == "Conv":
            why = "its Q moves in front of it, into each of its branches"
            yield found("T17", node, why, "quantize all its inputs with one range")


@checks("T26")
def resizes_behind_convolutions_read_int8(view: View, target: Target) -> Iterator[Finding]:
    """A float Resize between int8 layers."""
    for node in view.of(*sorted(_RESIZES)):
        layer = view.layer(view.source(node.input(0), ACTIVATIONS)) if node.inputs else None
        int8 = layer is not None and layer.op == "Conv" and bool(view.quantized(layer))
        if int8 and any(use.op == Q for use in view.readers(node.result)):
            why = f"it reads {layer.label if layer else ''} as float, and its result is quantized"
            yield found("T26", node, why, "put a pair in front of it", tensor=node.input(0))


@checks("T27")
def outputs_stay_float(view: View, target: Target) -> Iterator[Finding]:
    """Int8 operators without weights that give an output of the graph."""
    for node in view.of(*_POOLS | _SUMS):
        if node.result in view.outputs and view.quantized(node):
            why = f"an int8 {node.op} gives an output of the graph"
            yield found("T27", node, why, "remove the pairs of its inputs")


@checks("T28")
def pools_have_an_int8_neighbour(view: View, target: Target) -> Iterator[Finding]:
    """Int8 pools between float operators."""
    for node in view.of(*_POOLS):
        if not node.inputs or view.dq(node.input(0), MOVERS) is None:
            continue
        origin = view.bare(view.source(node.input(0), MOVERS))
        ahead = view.maker(view.source(origin, ACTIVATIONS | MOVERS))
        behind = view.uses(node.result, MOVERS | ACTIVATIONS | {Q, DQ})
        if ahead is not None and view.quantized(ahead):
            continue
        if not any(_takes_codes(view, use) for use in behind):
            why = "an int8 pool between float operators"
            yield found("T28", node, why, "remove its pairs")


def _is_fused(view: View, node: Node, tensor: str, silus: dict[str, str]) -> bool:
    """Whether a float input of an addition leaves a layer, its activation applied or not."""
    origin = silus.get(tensor) or view.source(tensor, ACTIVATIONS)
    return node.op == "Add" and view.layer(origin) is not None


def _takes_codes(view: View, use: Use) -> bool:
    if use.node is None or use.index < 0 or use.op not in _WITH_KERNEL:
        return False
    return view.dq(use.node.inputs[use.index], MOVERS) is not None


def _gives(use: Use, tensors: frozenset[str]) -> bool:
    return use.node is not None and use.node.result in tensors


def _feeds_a_plugin(readers: list[Use]) -> bool:
    """Whether a foreign operator reads it: T32 speaks of that."""
    foreign = ("", "ai.onnx", "com.microsoft")
    return any(use.node is not None and use.node.proto.domain not in foreign for use in readers)


def _rule_against(view: View, pair: Node, layer: Node | None) -> str:
    if pair.result in view.outputs:
        return "T27"
    if layer is not None:
        return "T09"
    near = {use.op for use in view.readers(pair.result)}
    return "T21" if near & _NO_PAIR_OF_ITS_OWN else "T14"
