"""What of an op of a recorded forward takes time, in float and in integers."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from qdq.targets.costs.layers import Bill, Layer, Terms, float_terms, integer_terms, rewritten_stem
from qdq.targets.opgraph import WEIGHTED, Op, OpGraph

_ROWS = {"add": "sum", "mul": "product", "concat": "sum", "avg_pool": "pool"}
_PRODUCTS = frozenset({"matmul", "other_matmul", "attention", "conv_transpose"})


def float_bill(op: Op, graph: OpGraph) -> Bill:
    """The terms of an op in float.

    Args:
        op: an op that takes time.
        graph: where it stands, with shapes.
    """
    layer = _layer(op, graph)
    if layer is not None:
        return [float_terms(layer)]
    if op.kind in _PRODUCTS:
        made = prod(graph.shapes[op.outputs[0]])
        return [("matrix.float", {"mac": _macs(op, graph), "output": made, "call": 1.0})]
    return [_plain_terms(op, graph, "float")]


def integer_bill(op: Op, graph: OpGraph, widths: Mapping[int, int]) -> Bill:
    """The terms of an op in integers, between tensors that are codes already.

    Args:
        op: an op that takes time.
        graph: where it stands, with shapes.
        widths: tensor -> channels, of tensors that are padded.
    """
    layer = _layer(op, graph)
    if layer is None:
        return [_plain_terms(op, graph, "int8")]
    layer = _widened(layer, widths.get(op.inputs[0], 0), widths.get(op.outputs[0], 0))
    stem = rewritten_stem(layer)
    if stem is None:
        return [integer_terms(layer)]
    rewritten, copied = stem
    return [integer_terms(rewritten), ("copy", {"element": copied, "call": 1.0})]


def _layer(op: Op, graph: OpGraph) -> Layer | None:
    """The product with a constant that an op is; None for any other op."""
    if op.kind not in WEIGHTED or not op.weight:
        return None
    outputs, inputs, *kernel = op.weight
    return Layer(
        outputs,
        inputs,
        prod(kernel),
        op.groups,
        max(1, prod(graph.shapes[op.outputs[0]]) // outputs),
        prod(graph.shapes[op.inputs[0]]),
        op.kind == "linear",
    )


def _widened(layer: Layer, inputs: int, outputs: int) -> Layer:
    """The layer after padding; 0 for what keeps its width."""
    wide = outputs or layer.outputs
    if layer.is_depthwise:
        return replace(layer, outputs=wide, groups=outputs or layer.groups)
    return replace(layer, outputs=wide, inputs=inputs or layer.inputs)


def _plain_terms(op: Op, graph: OpGraph, numbers: str) -> Terms:
    """Terms of an op without weights: of the values it makes; of a pool, of those it reads."""
    made = graph.shapes[op.outputs[0]]
    row = _ROWS.get(op.kind, "other" if numbers == "float" else "sum")
    if row != "pool":
        return f"{row}.{numbers}", {"element": prod(made), "call": 1.0}
    row = "mean" if prod(made[2:]) == 1 else "pool"
    return f"{row}.{numbers}", {"element": prod(graph.shapes[op.inputs[0]]), "call": 1.0}


def _macs(op: Op, graph: OpGraph) -> float:
    """Multiply-accumulates of a product that is no layer: of two tensors, or transposed."""
    first = graph.shapes[op.inputs[0]]
    if op.kind == "attention":  # queries by keys, and what comes of it by values
        return 2.0 * prod(first) * graph.shapes[op.inputs[1]][-2]
    if op.kind == "conv_transpose":  # each value meets the whole kernel of every channel out
        outputs, _, *kernel = op.weight or (1, 1)
        return float(prod(first) * outputs * prod(kernel))
    return float(prod(graph.shapes[op.outputs[0]]) * first[-1])
