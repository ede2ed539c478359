"""Half precision, written in float32: integer kernels stand between float32 Q and DQ."""

from collections.abc import Iterator, MutableSequence

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
)
from onnx.numpy_helper import from_array, to_array

from qdq.graph.linting.reading import subgraphs

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
# Attributes that name the type of what is made.
_TYPES = ("to", "dtype")


def widen(model: ModelProto) -> int:
    """Let float16 be float32 everywhere but in the inputs and outputs, in place.

    Casts stand behind inputs and in front of outputs, which keep their type. What was rounded to
    half precision on the way no longer is.

    Args:
        model: whole; types of inner tensors are no longer noted.

    Returns:
        How many constants, casts, inputs and outputs were float16.
    """
    graphs = [model.graph]
    for graph in graphs:  # grows meanwhile
        graphs += [inner for _, inner in subgraphs(graph)]
    count = sum(_widen_constants(graph) for graph in graphs)
    for inner in graphs[1:]:
        for info in (*inner.input, *inner.output):
            count += _is_half(info)
            if _is_half(info):
                info.type.tensor_type.elem_type = _FLOAT
    count += _cast_inputs(model.graph, graphs)
    return count + _cast_outputs(model.graph, graphs)


def _widen_constants(graph: GraphProto) -> int:
    """Initializers, constants in attributes, and the types that nodes make."""
    del graph.value_info[:]
    found = [each for each in graph.initializer if each.data_type == _HALF]
    found += [each.t for each in _attributes(graph) if each.t.data_type == _HALF]
    for tensor in found:
        tensor.CopyFrom(from_array(to_array(tensor).astype(np.float32), tensor.name))
    made = [each for each in _attributes(graph) if each.name in _TYPES and each.i == _HALF]
    for attribute in made:
        attribute.i = _FLOAT
    return len(found) + len(made)


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    return (attribute for node in graph.node for attribute in node.attribute)


def _cast_inputs(graph: GraphProto, graphs: list[GraphProto]) -> int:
    halves = [each.name for each in graph.input if _is_half(each)]
    for name in halves:
        for node in _nodes(graphs):
            _rename(node.input, name, f"{name}/float32")
        cast = helper.make_node("Cast", [name], [f"{name}/float32"], f"{name}/Cast", to=_FLOAT)
        graph.node.insert(0, cast)
    return len(halves)


def _cast_outputs(graph: GraphProto, graphs: list[GraphProto]) -> int:
    made = {name for node in graph.node for name in node.output}
    halves = [each.name for each in graph.output if _is_half(each) and each.name in made]
    for name in halves:
        for node in _nodes(graphs):
            _rename(node.input, name, f"{name}/float32")
            _rename(node.output, name, f"{name}/float32")
        cast = helper.make_node("Cast", [f"{name}/float32"], [name], f"{name}/Cast", to=_HALF)
        graph.node.append(cast)
    return len(halves)


def _nodes(graphs: list[GraphProto]) -> Iterator[NodeProto]:
    return (node for graph in graphs for node in graph.node)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _is_half(info: ValueInfoProto) -> bool:
    return bool(info.type.tensor_type.elem_type == _HALF)
