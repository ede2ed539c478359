"""Arithmetic on constants and on sizes, done once."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from qdq.graph.edges import Array, infer_shapes, is_output, read_instead, remove

# What exporters compute pads, axes and shapes with. Movers may move what is not known.
_MOVERS = frozenset({"Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Identity"})
_OPS = _MOVERS | {
    "Constant", "ConstantOfShape", "Reshape", "Transpose", "Flatten", "Add", "Sub", "Mul", "Div"
}  # fmt: skip
_LARGEST = 1024  # elements
_EXACT = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE)
# A size that depends on the input is a negative multiple of this, which those types hold.
_UNKNOWN, _NAMES = 2**20, 2000


def fold_constants(graph: gs.Graph) -> int:
    """Small constants that are computed become constants, and so do sizes that follow from shapes.

    A Reshape to sizes of which one is not known gets -1 for it.

    Requires: nothing. Ensures: equal results; the passes behind it see pads and shapes as numbers.
    Source: the operators of ONNX, by its reference implementation.
    """
    folded = 0
    while count := _fold_once(graph):
        folded += count
    return folded


def _fold_once(graph: gs.Graph) -> int:
    graph.cleanup().toposort()
    infer_shapes(graph)
    names: dict[object, int] = {}
    known: dict[int, Array] = {}
    folded = 0
    for node in list(graph.nodes):
        values = _evaluate(node, known, names, graph.opset)
        if values is None or is_output(graph, node.outputs[0]):
            continue
        result = node.outputs[0]
        if _is_unknown(values).any():
            known[id(result)] = values
            continue
        remove(graph, node)
        read_instead(result, gs.Constant(result.name, values))
        folded += 1
    for node in [each for each in graph.nodes if each.op == "Reshape"]:
        sizes = known.get(id(node.inputs[1]))
        before = None if sizes is None else _numbers(node.inputs[0].shape, names)
        numbers = None if sizes is None or before is None else _reshaped(before, sizes)
        if numbers is not None:
            node.inputs[1] = gs.Constant(f"{node.outputs[0].name}.shape", numbers)
            folded += 1
    return folded


def _is_unknown(values: Array) -> Array:
    if not np.issubdtype(values.dtype, np.number):
        return np.zeros(values.shape, bool)
    with np.errstate(invalid="ignore"):  # infinities have no remainder
        whole: Array = values % _UNKNOWN == 0
    whole &= (values <= -_UNKNOWN) & (values >= -_UNKNOWN * _NAMES)
    return whole


def _numbers(shape: Iterable[object] | None, names: dict[object, int]) -> Array | None:
    """Sizes as integers; one that is not known by a number that stands for its name."""
    if shape is None:
        return None
    found = []
    for size in shape:
        if not isinstance(size, int):
            key = size if size is not None else object()
            size = -_UNKNOWN * (names.setdefault(key, len(names)) + 1)
        found.append(size)
    return np.array(found, np.int64) if len(names) <= _NAMES else None


def _reshaped(before: Array, sizes: Array) -> Array | None:
    """Sizes with -1 for the one that is not known; None where there are more such, or zeros.

    Args:
        before: sizes of what is reshaped.
        sizes: what it is reshaped to.
    """
    unknown, rest = _is_unknown(sizes), sizes == -1
    if np.any(sizes == 0) or rest.sum() > 1:
        return None
    if rest.any():
        unknown_before = _is_unknown(before)
        if Counter(before[unknown_before].tolist()) != Counter(sizes[unknown].tolist()):
            return None
        known = int(np.prod(sizes[~unknown & ~rest]))
        sizes = np.where(rest, int(np.prod(before[~unknown_before])) // known, sizes)
    return np.where(unknown, -1, sizes) if unknown.sum() == 1 else None


def _evaluate(
    node: gs.Node, known: dict[int, Array], names: dict[object, int], opset: int
) -> Array | None:
    """What the node computes; None where it is no such node, not known, or large."""
    if node.domain or len(node.outputs) != 1:
        return None
    if node.op == "Shape":
        sizes = _numbers(node.inputs[0].shape, names)
        ends = slice(node.attrs.get("start", 0), node.attrs.get("end"))
        return None if sizes is None else sizes[ends]
    inputs = []
    for index, tensor in enumerate(node.inputs if node.op in _OPS else ()):
        values = tensor.values if isinstance(tensor, gs.Constant) else known.get(id(tensor))
        if values is None or values.size > _LARGEST:
            return None
        may_be_unknown = node.op in _MOVERS and (index == 0 or node.op == "Concat")
        may_be_unknown &= node.attrs.get("to", TensorProto.INT64) in _EXACT
        if not may_be_unknown and _is_unknown(values).any():
            return None
        inputs.append(gs.Constant(f"input_{index}", np.asarray(values)))
    if node.op == "ConstantOfShape" and inputs[0].values.astype(float).prod() > _LARGEST:
        return None
    return _run(node, inputs, opset) if node.op in _OPS else None


def _run(node: gs.Node, inputs: list[gs.Constant], opset: int) -> Array | None:
    """By the reference implementation."""
    result = gs.Variable("result")
    single = gs.Node(node.op, "", dict(node.attrs), inputs, [result])
    graph = gs.Graph([single], [], [result], opset=opset)
    model = gs.export_onnx(graph, do_type_check=False)
    outputs: Any = ReferenceEvaluator(model).run(None, {})
    values = np.asarray(outputs[0])
    return values if values.size <= _LARGEST else None
