"""onnxruntime's optimized graph, mapped back to the nodes of the file it was made from."""

from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, defs, helper

from qdq.graph.edges import DEQUANTIZE, QUANTIZE
from qdq.graph.explaining.dyes import graphs_of, nodes_of, source_of, sources_in
from qdq.graph.explaining.wiring import Wiring
from qdq.records.explanation import Fate

CODES = frozenset(
    {
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.INT16,
        TensorProto.UINT16,
    }
)
FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)
CONVERTING = frozenset({QUANTIZE, DEQUANTIZE, "DynamicQuantizeLinear", "Cast"})
# They change where values lie and nothing else; onnxruntime adds them around what it rewrites.
_MOVING = frozenset(
    {"Transpose", "ReorderInput", "ReorderOutput", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)
# onnxruntime takes them out; no kernel does their work.
_IDLE = frozenset({"Identity", "Dropout", "Cast"})


@dataclass(slots=True)
class Kernel:
    """One node that onnxruntime executes.

    Attributes:
        name: in the optimized copy.
        op: its operator.
        fate: in which numbers it computes.
        near: nodes of the file that its name, or the names around it, were made from.
        sources: nodes of the file whose work it does.
        changed: whether it is another operator, or has other attributes, than the node it is
            named after.
    """

    name: str
    op: str
    fate: Fate
    near: list[int]
    sources: list[int] = field(default_factory=list)
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where each node of a file went.

    Attributes:
        kernels: what onnxruntime executes, in its order.
        place: number of a node -> number of the kernel that does its work.
        folded: numbers of nodes that were computed once, when the session was made.
    """

    kernels: list[Kernel]
    place: dict[int, int]
    folded: set[int]


def map_kernels(model: onnx.ModelProto, result: onnx.ModelProto) -> Mapped:
    """Find for every node of a file the kernel that does its work.

    Args:
        model: the file, its own functions inlined.
        result: what onnxruntime made of its dyed copy.
    """
    wiring = Wiring(model)
    types = _types(result)
    nodes = list(nodes_of(result.graph))
    kernels = [_kernel(node, types) for node in nodes]
    _find_neighbours(nodes, kernels)
    versions = {entry.domain: entry.version for entry in result.opset_import}
    place = _placed(wiring.nodes, nodes)
    for source, index in place.items():
        kernels[index].changed |= _differs(wiring.nodes[source], nodes[index], versions)
    held = {each.name for graph in graphs_of(result.graph) for each in graph.initializer}
    folded = {each for name in held if (each := source_of(name)) is not None} - place.keys()
    _inherit(wiring, place, folded, kernels)
    for source, index in sorted(place.items()):
        kernels[index].sources.append(source)
    return Mapped(kernels, place, folded)


def _kernel(node: onnx.NodeProto, types: dict[str, int]) -> Kernel:
    near = [each for name in (node.name, *node.output, *node.input) for each in sources_in(name)]
    return Kernel(node.name, node.op_type, _fate(node, types), list(dict.fromkeys(near)))


def _find_neighbours(nodes: list[onnx.NodeProto], kernels: list[Kernel]) -> None:
    """Kernels whose own names tell nothing are near what those before and behind them are near."""
    made = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    edges = [
        (made[name], index)
        for index, node in enumerate(nodes)
        for name in node.input
        if name in made
    ]
    for first, second in edges:
        kernels[second].near = kernels[second].near or kernels[first].near[:1]
    for first, second in reversed(edges):
        kernels[first].near = kernels[first].near or kernels[second].near[:1]


def _fate(node: onnx.NodeProto, types: dict[str, int]) -> Fate:
    if node.op_type in CONVERTING:
        return "convert"
    if any(types.get(name) in CODES for name in node.input if name):
        return "integer"
    return "float" if any(types.get(name) in FLOATS for name in node.output if name) else "index"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Type of the elements of every tensor; what onnxruntime left open follows what goes in."""
    found: dict[str, int] = {}
    for graph in graphs_of(model.graph):
        for info in (*graph.input, *graph.value_info, *graph.output):
            found[info.name] = info.type.tensor_type.elem_type
        found |= {each.name: each.data_type for each in graph.initializer}
    for node in nodes_of(model.graph):
        of = node.input[-1:] if node.op_type == QUANTIZE else node.input[:1]
        of = node.input[1:2] if node.op_type == DEQUANTIZE else of
        for name in node.output:
            if not found.get(name) and of:
                found[name] = found.get(of[0], 0)
    return found


def _placed(sources: list[onnx.NodeProto], nodes: list[onnx.NodeProto]) -> dict[int, int]:
    """Nodes whose name, or the name of what they make, is left in the optimized graph."""
    named: dict[int, int] = {}
    for index, node in enumerate(nodes):
        own = source_of(node.name)
        if own is not None and (own not in named or not node.name.endswith("/duplicated")):
            named.setdefault(own, index)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output}
    made: dict[int, int] = {}
    for index, node in enumerate(nodes):
        for own in [each for name in node.output if (each := source_of(name)) is not None]:
            worker: int | None = index
            while worker is not None and _only_moves(nodes[worker], sources[own]):
                worker = maker.get(nodes[worker].input[0])
            made.setdefault(own, index if worker is None else worker)
    return made | named


def _only_moves(node: onnx.NodeProto, source: onnx.NodeProto) -> bool:
    """Whether onnxruntime put a node in that brings another's result into place."""
    own, moves = source_of(node.name), node.op_type in _MOVING
    return moves and own is None and source.op_type not in _MOVING


def _differs(source: onnx.NodeProto, node: onnx.NodeProto, versions: dict[str, int]) -> bool:
    """Whether a kernel is another operator than the node, or has other attributes."""
    if source.op_type != node.op_type:
        return True
    ours = {each.name: each for each in source.attribute}
    try:
        schema = defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
        usual = {name: each.default_value for name, each in schema.attributes.items()}
    except defs.SchemaError:
        usual = {}
    for theirs in node.attribute:
        expected = ours.get(theirs.name, usual.get(theirs.name))
        if theirs.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        if expected is not None and expected.type and _value(expected) != _value(theirs):
            return True
    return False


def _value(attribute: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    return value.SerializeToString() if isinstance(value, TensorProto) else value


def _inherit(
    wiring: Wiring, place: dict[int, int], folded: set[int], kernels: list[Kernel]
) -> None:
    """Give what has left no name to the kernel beside it that took over its work.

    A Q asks the maker of what it reads first, everything else the readers of its result; readers
    stand behind makers in a file, so one way back and one forth are enough. A kernel that is just
    what its own node was has taken nothing over: what stood beside it was removed.
    """
    workers = _workers_behind(wiring, place)
    reached = dict(place)  # also through what was removed
    for index in reversed(range(len(wiring.nodes))):
        op = wiring.nodes[index].op_type
        if index in place or index in folded:
            continue
        ahead = [reached[each] for each in wiring.ahead(index) if each in reached]
        if index in wiring.constants and not (op == DEQUANTIZE and ahead):
            folded.add(index)
            continue
        behind = [workers[index]] if op == QUANTIZE and index in workers else []
        goals = behind + ahead
        goal = next((each for each in goals if kernels[each].changed), None)
        if goals:
            reached[index] = goals[0] if goal is None else goal
        if goal is not None and op not in _IDLE:
            place[index] = goal
    for index, goal in _workers_behind(wiring, place).items():
        lost = index not in place and index not in folded
        took_over = kernels[goal].changed and kernels[goal].op not in _MOVING
        if lost and took_over and wiring.nodes[index].op_type not in _IDLE:
            place[index] = goal


def _workers_behind(wiring: Wiring, place: dict[int, int]) -> dict[int, int]:
    """For each node the kernel of the nearest node, back along first inputs, that has one."""
    found: dict[int, int] = {}
    for index, node in enumerate(wiring.nodes):
        maker = wiring.maker(node.input[0]) if node.input else None
        if maker is not None and (maker in place or maker in found):
            found[index] = place[maker] if maker in place else found[maker]
    return found
