"""A float file, clean, and what of it will compute in integers on a target."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from qdq.errors import GraphError
from qdq.graph.opgraphs import op_graph, products_of
from qdq.graph.quantizing.cleaning import cleaned
from qdq.graph.quantizing.opening import open_float
from qdq.graph.quantizing.products import Product
from qdq.graph.quantizing.selection import select
from qdq.records.decisions import Decision
from qdq.records.quantizing import QuantizedRow
from qdq.sites import Patterns, owner
from qdq.targets import Target
from qdq.targets.placement import place

_SHOWN = 5  # reasons in one message


@dataclass(frozen=True, eq=False)
class Plan:
    """A float graph and where its pairs go.

    Attributes:
        model: the file, whole, of opset 13 or newer.
        graph: the same, clean.
        products: its layers with weights, by name.
        sites: the sites that are on, in the order of the graph.
        rows: one per node that computes.
        notes: what was done to the graph.
        size: bytes of the file and of the data beside it.
    """

    model: ModelProto
    graph: gs.Graph
    products: Mapping[str, Product]
    sites: tuple[str, ...]
    rows: tuple[QuantizedRow, ...]
    notes: tuple[str, ...]
    size: int


def plan_for(source: Path, target: Target, ignore: Patterns) -> Plan:
    """Read a file and decide on each of its nodes.

    Raises:
        GraphError: it cannot be read or taken apart, is quantized already, or nothing in it would
            compute in integers.
        PolicyError: a pattern of `ignore` cannot be read, or fits nothing.
    """
    model, notes = open_float(source)
    graph, done = cleaned(model, str(source))
    graph.ir_version = ir_version_of(model)
    ops, products = op_graph(graph), products_of(graph)
    selection = select(graph, ops, products, ignore)
    placed = place(selection.sites, ops, target)
    sites = tuple(each.name for each in placed if each.action == "quantize")
    operators = {node.name: node.op for node in graph.nodes}
    left = {each.name: _float_row(each, operators) for each in selection.left}
    found = left | _placed_rows(placed, operators)
    rows = tuple(found[op.name] for op in ops.ops if op.name in found)
    if not sites:
        reasons = "; ".join(f"{row.name}: {row.why}" for row in rows[:_SHOWN])
        raise GraphError(
            f"nothing in this file would compute in integers on {target.name}: "
            f"{reasons or 'no node of it computes'}",
            at=str(source),
            fix="use the float file as it is",
        )
    held = sum(len(each.raw_data) for each in model.graph.initializer)
    size = max(source.stat().st_size, held)
    return Plan(model, graph, products, sites, rows, (*notes, *done), size)


def ir_version_of(model: ModelProto) -> int:
    """The model's own, or the first that has its opsets and initializers that are no inputs."""
    least: int = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return max(least, model.ir_version)


def _float_row(decision: Decision, operators: Mapping[str, str]) -> QuantizedRow:
    return QuantizedRow(decision.name, operators[decision.name], "float", decision.why)


def _placed_rows(
    placed: tuple[Decision, ...], operators: Mapping[str, str]
) -> dict[str, QuantizedRow]:
    """A node computes in integers if a site on its way in is on: the first says why."""
    rows: dict[str, QuantizedRow] = {}
    for each in placed:
        name, role = owner(each.name), each.name.rpartition(".")[2]
        known = rows.get(name)
        if each.action == "quantize" and role != "output":
            if known is None or known.numbers == "float":
                rows[name] = QuantizedRow(name, operators[name], "integer", each.why)
        elif known is None:
            rows[name] = _float_row(Decision(name, "off", each.why), operators)
    return rows
