"""diff: two ONNX files compared by what they are made of, without running them."""

import os
from collections.abc import Iterator, Mapping

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from qdq.graph.differing.gaps import gap_in_steps, largest_gap
from qdq.graph.differing.sides import Side
from qdq.graph.edges import QUANTIZE
from qdq.graph.files import metadata
from qdq.records.difference import Change, DifferenceReport, DifferenceRow, Subject

_LONGEST = 100  # characters of a value that is shown
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)  # their nodes are compared one by one


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> DifferenceReport:
    """Compare two ONNX files.

    Nodes are found again by name, those without one by operator and first output; initializers
    by name. A Q that is known again by its name, or by its scale, and reads another tensor has
    moved.

    Args:
        a: the first file.
        b: the second file.

    Raises:
        GraphError: one of them cannot be read, or its data outside the file is missing.
    """
    one, two = Side(a), Side(b)
    rows = [
        *_entries("opset", one.opsets, two.opsets),
        *_entries("input", one.inputs, two.inputs),
        *_entries("output", one.outputs, two.outputs),
        *_nodes(one, two),
    ]
    weights = list(_initializers(one, two))
    rows += [*weights, *_entries("metadata", metadata(one.model), metadata(two.model))]
    same = [name for name, node in one.nodes.items() if _same(node, two.nodes.get(name))]
    changed = sum(row.change == "changed" for row in weights)
    shared = len(one.held.keys() & two.held.keys()) - changed
    return DifferenceReport(str(a), str(b), len(same), shared, tuple(rows))


def _entries(
    subject: Subject, one: Mapping[str, str], two: Mapping[str, str]
) -> Iterator[DifferenceRow]:
    """Differences of two lists of names with something to each."""
    for name in dict.fromkeys([*one, *two]):
        if name not in two:
            yield DifferenceRow(subject, "removed", name, "", f"was {_brief(one[name])}")
        elif name not in one:
            yield DifferenceRow(subject, "added", name, "", _brief(two[name]))
        elif one[name] != two[name]:
            what = f"{_brief(one[name])} -> {_brief(two[name])}"
            yield DifferenceRow(subject, "changed", name, "", what)


def _nodes(one: Side, two: Side) -> Iterator[DifferenceRow]:
    gone = {name: node for name, node in one.nodes.items() if name not in two.nodes}
    fresh = {name: node for name, node in two.nodes.items() if name not in one.nodes}
    moved = dict(_found_again(one, two, gone, fresh))
    for name, node in one.nodes.items():
        other = two.nodes.get(moved.get(name, name))
        if other is None:
            yield DifferenceRow("node", "removed", name, node.op_type, _edges(node))
        elif not _same(node, other):
            what = "; ".join(_changes(node, other))
            if node.op_type == other.op_type == QUANTIZE and node.input[0] != other.input[0]:
                yield DifferenceRow("pair", "moved", name, QUANTIZE, what)
            else:
                yield DifferenceRow("node", "changed", name, other.op_type, what)
    for name, node in fresh.items():
        if name not in moved.values():
            yield DifferenceRow("node", "added", name, node.op_type, _edges(node))


def _found_again(
    one: Side, two: Side, gone: Mapping[str, NodeProto], fresh: Mapping[str, NodeProto]
) -> Iterator[tuple[str, str]]:
    """Q nodes of two names with one grid, if only one on each side has it."""
    sides: list[dict[tuple[object, ...], list[str]]] = [{}, {}]
    for side, file, nodes in zip(sides, (one, two), (gone, fresh), strict=True):
        for name, node in nodes.items():
            if node.op_type == QUANTIZE:
                side.setdefault(file.grid(node), []).append(name)
    for grid, names in sides[0].items():
        others = sides[1].get(grid, [])
        if len(names) == len(others) == 1:
            yield names[0], others[0]


def _same(node: NodeProto, other: NodeProto | None) -> bool:
    return other is not None and not any(_changes(node, other))


def _changes(node: NodeProto, other: NodeProto) -> Iterator[str]:
    kinds = [f"{each.domain}.{each.op_type}".lstrip(".") for each in (node, other)]
    if kinds[0] != kinds[1]:
        yield f"{kinds[0]} -> {kinds[1]}"
    attributes = [
        {each.name: _text(each) for each in side.attribute if each.type not in _GRAPHS}
        for side in (node, other)
    ]
    for row in _entries("node", *attributes):
        yield f"{row.name}: {row.what if row.change == 'changed' else f'{row.change} {row.what}'}"
    for what in ("input", "output"):
        before, after = (list(getattr(side, what)) for side in (node, other))
        if before != after:
            yield f"{what}s {_listed(before)} -> {_listed(after)}"


def _text(attribute: AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value).tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _brief(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _listed(names: list[str]) -> str:
    return f"({', '.join(names)})"


def _edges(node: NodeProto) -> str:
    return f"{_listed(list(node.input))} -> {_listed(list(node.output))}"


def _initializers(one: Side, two: Side) -> Iterator[DifferenceRow]:
    for name in dict.fromkeys([*one.held, *two.held]):
        reader, place = two.readers.get(name) or one.readers.get(name) or (NodeProto(), 0)
        op = reader.op_type
        if name not in two.held or name not in one.held:
            kind: Change = "removed" if name in one.held else "added"
            held = one.held.get(name) or two.held[name]
            yield DifferenceRow("initializer", kind, name, op, _described(held))
            continue
        kinds = [_described(each.held[name]) for each in (one, two)]
        if kinds[0] != kinds[1]:
            yield DifferenceRow("initializer", "changed", name, op, " -> ".join(kinds))
            continue
        before, after = one.values(name), two.values(name)
        if before.dtype.kind in "OSU" or before.tobytes() == after.tobytes():
            if not np.array_equal(before, after):
                yield DifferenceRow("initializer", "changed", name, op, "other texts")
            continue
        largest = largest_gap(before, after)
        count = int(np.count_nonzero(before != after))
        what = f"{count:,} of {before.size:,} values differ"
        steps = gap_in_steps(two, reader, place, before, after)
        yield DifferenceRow("initializer", "changed", name, op, what, largest, steps)


def _described(held: TensorProto) -> str:
    kind = TensorProto.DataType.Name(held.data_type).lower()
    return f"{kind} ({', '.join(map(str, held.dims))})"
