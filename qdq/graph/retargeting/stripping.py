"""Taking the Q/DQ out of a graph, and keeping what they say: ranges, codes, clamps."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    bypass,
    is_output,
    maker_of,
    read_instead,
    remove,
    values_of,
)
from qdq.graph.retargeting.constants import site_of, take_constants
from qdq.graph.retargeting.grids import HeldCodes, PairGrid
from qdq.graph.retargeting.signs import is_nonnegative
from qdq.graph.retargeting.undoing import drop_padding, slice_for_convolutions
from qdq.graph.speed.quantized import scalar_grid
from qdq.records.retargeting import Loss

# What may stand between Q and DQ: it moves, picks or clamps codes as it would their values.
_ON_CODES = frozenset({
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather",
    "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool", "Pad", "Clip",
})  # fmt: skip
_KINDS = ("int8", "uint8")


@dataclass(frozen=True, slots=True)
class Seen:
    """A pair that stood in the graph.

    Attributes:
        grid: its grid.
        site: how its file calls the place; "" where that is not known.
    """

    grid: PairGrid
    site: str


@dataclass
class Stripped:
    """A float graph, and what its Q/DQ said.

    Attributes:
        graph: without the Q and DQ that were understood.
        edges: (id of a node, number of its input) -> the pair it read through.
        tensors: name of a float tensor -> the first pair that read it.
        constants: name of a float constant -> the integers it was.
        clamps: name of a float tensor -> the Relu in the place of pairs that cut it off at 0, and
            the largest value that they let pass.
        losses: what was not understood, and stays as it is.
    """

    graph: gs.Graph
    edges: dict[tuple[int, int], Seen] = field(default_factory=dict)
    tensors: dict[str, Seen] = field(default_factory=dict)
    constants: dict[str, HeldCodes] = field(default_factory=dict)
    clamps: dict[str, tuple[gs.Node, float]] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)


def strip(graph: gs.Graph) -> Stripped:
    """Take out every pair with one constant scale and every DQ of constant codes, in place.

    What stood between the Q and DQ of a pair computes on floats then. A pair whose lowest code is
    that of 0.0 clamped; where values behind it could be negative without it, a Relu takes its place
    (O03). Pairs on other grids stay and are named.
    """
    graph.toposort()
    found = Stripped(graph)
    found.constants, found.losses = take_constants(graph)
    slice_for_convolutions(graph, found.constants)
    graph.cleanup().toposort()  # a Q of a constant is read no more
    for node in [each for each in graph.nodes if each.op == QUANTIZE]:
        _strip_pair(found, node)
    drop_padding(graph, found.constants)
    for node in [each for each in graph.nodes if each.op == "Sum" and not each.domain]:
        if len(node.inputs) == 2:
            node.op = "Add"
        elif len(node.inputs) == 1 and not is_output(graph, node.outputs[0]):
            bypass(graph, node, node.inputs[0])  # it held two operators apart
    graph.cleanup().toposort()
    for node, grid in _staying(graph):
        seen = Seen(grid, site_of(node))
        found.tensors.setdefault(node.outputs[0].name, seen)
        found.edges |= {edge: seen for edge in _readings(node.outputs[0])}
    return found


def given_as_codes(stripped: Stripped) -> list[Loss]:
    """DQ of codes that whoever feeds the graph makes, for targets that have no such codes."""
    why = f"its codes are made outside of the graph: the {DEQUANTIZE} stays as it is"
    return [
        Loss(node.inputs[0].name, "pair", why)
        for node, grid in _staying(stripped.graph)
        if (grid.kind != "int8" or grid.zero_point) and _is_given(node.inputs[0])
    ]


def _staying(graph: gs.Graph) -> Iterator[tuple[gs.Node, PairGrid]]:
    """Every DQ of codes that are not constant, and its grid."""
    for node in [each for each in graph.nodes if each.op == DEQUANTIZE]:
        grid = _grid_of(node)
        if grid is not None and values_of(node, 0) is None:
            yield node, grid


def _is_given(codes: gs.Tensor) -> bool:
    maker = maker_of(codes)
    while maker is not None and maker.op in _ON_CODES:
        codes = maker.inputs[0]
        maker = maker_of(codes)
    return maker is None and not isinstance(codes, gs.Constant)


def _readings(tensor: gs.Tensor) -> list[tuple[int, int]]:
    """(id of the node, number of its input) of all who read a tensor."""
    return [
        (id(reader), index)
        for reader in {id(each): each for each in tensor.outputs}.values()
        for index, each in enumerate(reader.inputs)
        if each is tensor
    ]


def _strip_pair(found: Stripped, quantize: gs.Node) -> None:
    grid = _grid_of(quantize)
    between, ends, why = _between(found.graph, quantize)
    if grid is None:
        why = "its grid is none of one constant scale and 8-bit codes: it stays as it is"
    if grid is None or why:
        found.losses.append(Loss(quantize.name or quantize.outputs[0].name, "pair", why))
        return
    source = quantize.inputs[0]
    if grid.begins_at_zero and not is_nonnegative(source):
        source = _clamped(found, quantize, source, grid.ends[1])
    codes = quantize.outputs[0]
    remove(found.graph, quantize)
    read_instead(codes, source)
    for node in between:
        _compute_on_values(node, grid)
    seen = Seen(grid, site_of(ends[0]) if ends else "")
    found.tensors.setdefault(source.name, seen)
    for dequantize in ends:
        _strip_end(found, dequantize, Seen(grid, site_of(dequantize)))


def _grid_of(node: gs.Node) -> PairGrid | None:
    grid = scalar_grid(node)
    if grid is None or grid[1].dtype.name not in _KINDS:
        scale = values_of(node, 1)
        if (
            grid is not None
            or len(node.inputs) > 2
            or node.attrs.get("output_dtype")
            or scale is None
            or scale.dtype != np.float32
        ):
            return None
        if scale.size != 1 or not 0 < float(scale.reshape(())) < np.inf:
            return None
        return PairGrid(float(scale.reshape(())), 0, "uint8")  # what a left out zero point means
    return PairGrid(float(grid[0]), int(grid[1]), grid[1].dtype.name)


def _between(graph: gs.Graph, quantize: gs.Node) -> tuple[list[gs.Node], list[gs.Node], str]:
    """(what stands between a Q and its DQs; these; why they cannot be taken out, or "")."""
    between: list[gs.Node] = []
    ends: list[gs.Node] = []
    work = list(quantize.outputs)
    while work:
        codes = work.pop()
        if is_output(graph, codes):
            return between, ends, "its codes are an output of the graph: it stays as it is"
        for reader in codes.outputs:
            if reader.op == "Shape" or any(reader is each for each in (*between, *ends)):
                continue
            if reader.op == DEQUANTIZE:
                if _grid_of(reader) != _grid_of(quantize):
                    return between, ends, "its codes are read with another grid: it stays as it is"
                ends.append(reader)
            elif reader.op in _ON_CODES and reader.inputs[0] is codes:
                between.append(reader)
                work += reader.outputs
            else:
                return between, ends, f"{reader.op} reads its codes: it stays as it is"
    return between, ends, ""


def _clamped(found: Stripped, quantize: gs.Node, source: gs.Variable, most: float) -> gs.Variable:
    """The tensor with what is negative in it replaced by 0, as the Q did."""
    if maker_of(source) is None:
        why = "the file reads what is below 0 in this input as 0; that is not kept"
        found.losses.append(Loss(source.name, "clamp", why))
        return source
    if source.name not in found.clamps:
        clamped = gs.Variable(f"{source.name}.clamped", np.float32, source.shape)
        relu = gs.Node("Relu", f"{quantize.name or source.name}/Relu", {}, [source], [clamped])
        found.graph.nodes.append(relu)
        found.clamps[source.name] = relu, most
    relu, before = found.clamps[source.name]
    found.clamps[source.name] = relu, max(before, most)
    result: gs.Variable = relu.outputs[0]
    return result


def _compute_on_values(node: gs.Node, grid: PairGrid) -> None:
    """What computed on codes computes on the values they stand for."""

    def value_of(code: Array) -> Array:
        steps = code.astype(np.int64) - grid.zero_point
        values: Array = np.asarray(steps.astype(np.float32) * np.float32(grid.scale))
        return values

    for result in node.outputs:
        result.dtype = np.dtype(np.float32)
    if node.op == "Pad":
        code = values_of(node, 2)
        given = np.zeros((), grid.kind) if code is None else code
        value = gs.Constant(f"{node.outputs[0].name}.value", value_of(given.reshape(())))
        node.inputs = [*node.inputs[:2], value, *node.inputs[3:]]
    if node.op == "Clip":
        for index, code in _limits(node):
            node.inputs[index] = gs.Constant(f"{node.outputs[0].name}.{index}", value_of(code))


def _limits(node: gs.Node) -> Iterator[tuple[int, Array]]:
    for index in (1, 2):
        code = values_of(node, index)
        if code is not None:
            yield index, code


def _strip_end(found: Stripped, dequantize: gs.Node, seen: Seen) -> None:
    """Who read a DQ reads the float in front of it; its name stays where it is an output."""
    result, source = dequantize.outputs[0], dequantize.inputs[0]
    found.edges |= {edge: seen for edge in _readings(result)}
    found.tensors.setdefault(source.name, seen)
    remove(found.graph, dequantize)
    read_instead(result, source)
    if not is_output(found.graph, result):
        return
    found.tensors.setdefault(result.name, seen)
    maker = maker_of(source)
    if maker is None or is_output(found.graph, source):
        name = f"{result.name}/Identity"
        found.graph.nodes.append(gs.Node("Identity", name, {}, [source], [result]))
        return
    read_instead(source, result)
    maker.outputs = [result if each is source else each for each in maker.outputs]
