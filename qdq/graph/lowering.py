"""Marker nodes -> QuantizeLinear and DequantizeLinear with our types, axes and names."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.errors import GraphError
from qdq.graph.edges import Array, remove


@dataclass(frozen=True, eq=False)
class SiteGrid:
    """What the ONNX file holds of one site.

    Attributes:
        site: its name.
        scale: () or (C,) float32.
        zero_point: () or (C,) int8, uint8 or int32: its type is the type of the codes.
        axis: the axis of the C scales; None for one scale.
        codes: the integers of a weight or bias, in the shape of the float tensor; None for an
            activation, which is quantized when the model runs.
        as_float: write the values of the codes instead of the codes and a DQ.
    """

    site: str
    scale: Array
    zero_point: Array
    axis: int | None = None
    codes: Array | None = None
    as_float: bool = False


def lower(graph: gs.Graph, grids: Mapping[str, SiteGrid], *, marker: str) -> dict[str, str]:
    """Replace every marker node, in place.

    An activation becomes Q and DQ; a weight or bias its codes and a DQ, or plain floats. Nodes and
    initializers are named after the site: `conv1.input/QuantizeLinear`, `conv1.input.scale`.

    Args:
        graph: with marker nodes that have an attribute `site`.
        grids: by site.
        marker: op type of the marker nodes.

    Returns:
        Site -> the name of the (first) tensor that leaves it, dequantized.

    Raises:
        GraphError: a marker names a site that has no grid.
    """
    names: dict[str, str] = {}
    parts: dict[str, list[gs.Constant]] = {}
    calls: Counter[str] = Counter()
    taken = _names_to_stay(graph, marker)
    whole: dict[str, gs.Variable] = {}  # weights: one DQ serves every call
    for node in [node for node in graph.nodes if node.op == marker]:
        site = node.attrs["site"]
        if site not in grids:
            raise GraphError(
                f"the graph holds a marker of {site!r}, a site that is not switched on",
                at=node.name,
                fix="this is a bug in the export: please report it with the model",
            )
        repeat = f"_{calls[site]}" if calls[site] else ""
        calls[site] += 1
        parts.setdefault(site, _constants(grids[site]))
        result = node.outputs[0]
        if site in whole and not any(result is output for output in graph.outputs):
            _read_instead(graph, node, whole[site])
            continue
        if not any(result is output for output in graph.outputs):
            result.name = f"{site}{repeat}"
            result.name += ".dequantized" if result.name in taken else ""
        _lower_one(graph, node, grids[site], parts[site], repeat)
        names.setdefault(site, str(result.name))
        if grids[site].codes is not None and not grids[site].as_float:
            whole.setdefault(site, result)
    return names


def _names_to_stay(graph: gs.Graph, marker: str) -> set[str]:
    """Names of the graph's own: an input named `input`, a tied weight that is read as float too."""
    others = [node for node in graph.nodes if node.op != marker]
    own = [tensor for node in others for tensor in (*node.inputs, *node.outputs)]
    return {tensor.name for tensor in (*own, *graph.inputs, *graph.outputs)}


def _constants(grid: SiteGrid) -> list[gs.Constant]:
    """Scale and zero point, one initializer each however often the site is called."""
    scale = gs.Constant(f"{grid.site}.scale", grid.scale)
    if grid.zero_point.dtype == np.int32:  # an int32 bias needs none: it would only add bytes
        return [scale]
    return [scale, gs.Constant(f"{grid.site}.zero_point", grid.zero_point)]


def _lower_one(
    graph: gs.Graph, node: gs.Node, grid: SiteGrid, constants: list[gs.Constant], repeat: str
) -> None:
    source, result = node.inputs[0], node.outputs[0]
    remove(graph, node)
    if grid.codes is not None and grid.as_float:
        _become_constant(result, grid.codes.astype(np.float32) * grid.scale)
        return
    attrs = {} if grid.axis is None else {"axis": grid.axis}
    stem = f"{grid.site}/"
    if grid.codes is None:
        codes = gs.Variable(f"{grid.site}.codes{repeat}", grid.zero_point.dtype, source.shape)
        name = f"{stem}QuantizeLinear{repeat}"
        inputs = [source, *constants]
        graph.nodes.append(gs.Node("QuantizeLinear", name, dict(attrs), inputs, [codes]))
    else:
        codes = gs.Constant(f"{grid.site}.codes", grid.codes)
    name = f"{stem}DequantizeLinear{repeat}"
    graph.nodes.append(gs.Node("DequantizeLinear", name, attrs, [codes, *constants], [result]))


def _read_instead(graph: gs.Graph, node: gs.Node, instead: gs.Variable) -> None:
    result = node.outputs[0]
    remove(graph, node)
    for reader in list(result.outputs):
        reader.inputs = [instead if each is result else each for each in reader.inputs]


def _become_constant(tensor: gs.Variable, values: Array) -> None:
    constant = gs.Constant(tensor.name, values)
    for reader in list(tensor.outputs):
        reader.inputs = [constant if each is tensor else each for each in reader.inputs]
