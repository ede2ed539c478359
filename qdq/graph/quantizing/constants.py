"""Constants of a float graph: each an initializer that its readers read, whatever moved it."""

from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator

from qdq.graph.edges import Array, is_output, read_instead, remove

# They give the values of one constant, moved or of another type.
_MOVERS = frozenset({
    "Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Slice",
})  # fmt: skip
# They compute element by element.
_COMPUTERS = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Neg", "Exp"})


def keep_constants(graph: gs.Graph) -> int:
    """What Constant nodes hold becomes initializers."""
    kept = 0
    for node in [each for each in graph.nodes if each.op == "Constant" and not each.domain]:
        values = _held(node)
        if values is None or is_output(graph, node.outputs[0]):
            continue
        result = node.outputs[0]
        remove(graph, node)
        read_instead(result, gs.Constant(result.name, values))
        kept += 1
    return kept


def fold_moved(graph: gs.Graph) -> int:
    """Constants that are moved or scaled before they are read become what is read.

    A result is never larger than the largest constant it is made of. Source: the operators of
    ONNX, by its reference implementation.
    """
    folded = 0
    for node in list(graph.nodes):
        fits = node.op in _MOVERS | _COMPUTERS and not node.domain and len(node.outputs) == 1
        if not fits or is_output(graph, node.outputs[0]):
            continue
        if not all(isinstance(each, gs.Constant) for each in node.inputs):
            continue
        given = [np.asarray(each.values) for each in node.inputs]
        values = _computed(node, given, graph.opset)
        if values is not None:
            result = node.outputs[0]
            remove(graph, node)
            read_instead(result, gs.Constant(result.name, values))
            folded += 1
    return folded


def drop_copies(graph: gs.Graph) -> int:
    """Identity, Dropout and Cast go where they only copy, and not in front of an output."""
    dropped = 0
    for node in [each for each in graph.nodes if _copies(each)]:
        source, result = node.inputs[0], node.outputs[0]
        trains = node.op == "Dropout" and len(node.inputs) > 2 and not node.inputs[2].is_empty()
        masks = any(each.outputs or is_output(graph, each) for each in node.outputs[1:])
        if trains or masks or is_output(graph, result):
            continue
        remove(graph, node)
        read_instead(result, source)
        dropped += 1
    return dropped


def _copies(node: gs.Node) -> bool:
    if node.domain or node.op != "Cast":
        return not node.domain and node.op in ("Identity", "Dropout")
    before, after = node.inputs[0].dtype, tensor_dtype_to_np_dtype(node.attrs["to"])
    return before is not None and bool(after == before)


def _held(node: gs.Node) -> Array | None:
    """The values of a Constant; None for text and sparse ones."""
    for name, held in node.attrs.items():
        if name == "value" and isinstance(held, gs.Constant):
            return np.asarray(held.values)
        if name in ("value_float", "value_floats"):
            return np.asarray(held, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(held, np.int64)
    return None


def _computed(node: gs.Node, given: list[Array], opset: int) -> Array | None:
    """By the reference implementation; None where it objects, or the result would be larger."""
    if node.op in _COMPUTERS and not _keeps_size(given):
        return None
    inputs = [gs.Constant(f"input_{index}", each) for index, each in enumerate(given)]
    result = gs.Variable("result")
    single = gs.Node(node.op, "", dict(node.attrs), inputs, [result])
    model = gs.export_onnx(gs.Graph([single], [], [result], opset=opset), do_type_check=False)
    try:
        outputs: Any = ReferenceEvaluator(model).run(None, {})
    except Exception:  # whatever numpy objects to: the node stays as it is
        return None
    return np.asarray(outputs[0])


def _keeps_size(given: list[Array]) -> bool:
    """Whether what is computed element by element is no larger than the largest of these."""
    try:
        made = np.broadcast_shapes(*(each.shape for each in given))
    except ValueError:
        return False
    return prod(made) <= max(each.size for each in given)
