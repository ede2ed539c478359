"""Following and changing the edges of an ONNX graph: what every pass over it is made of."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

Array: TypeAlias = NDArray[Any]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SIZES = 64  # elements; a constant of sizes has no more


def maker_of(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes it; None for an input or a constant of the graph."""
    return tensor.inputs[0] if tensor.inputs else None


def made_by(tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """The node that makes it, if it is one of these ops."""
    node = maker_of(tensor)
    return node if node is not None and node.op in ops else None


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether it is an output of the graph; tensors with equal names are not the same."""
    return any(tensor is each for each in graph.outputs)


def only_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The one node that reads it, once, if no other does and it is no output of the graph."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 and not is_output(graph, tensor) else None


def values_of(node: gs.Node, index: int) -> Array | None:
    """A constant input; None where it is left out or is computed when the model runs."""
    if index >= len(node.inputs) or not isinstance(node.inputs[index], gs.Constant):
        return None
    values: Array = node.inputs[index].values
    return values


def same_grid(first: gs.Node, second: gs.Node) -> bool:
    """Whether two Q or DQ have equal constant scales and zero points along the same axis."""
    pairs: Iterator[tuple[gs.Constant, gs.Constant]]
    pairs = zip(first.inputs[1:3], second.inputs[1:3], strict=True)
    return first.attrs.get("axis") == second.attrs.get("axis") and all(
        a.values.dtype == b.values.dtype and np.array_equal(a.values, b.values) for a, b in pairs
    )


def read_instead(tensor: gs.Tensor, instead: gs.Tensor) -> None:
    """Who reads `tensor` reads `instead`."""
    for reader in list(tensor.outputs):
        reader.inputs = [instead if each is tensor else each for each in reader.inputs]


def remove(graph: gs.Graph, node: gs.Node) -> None:
    """Take a node out; what it made is made by nobody."""
    node.outputs.clear()
    node.inputs.clear()
    # By identity: equality compares nodes whole, and is asked of every one before it.
    del graph.nodes[next(place for place, each in enumerate(graph.nodes) if each is node)]


def bypass(graph: gs.Graph, node: gs.Node, instead: gs.Tensor) -> None:
    """Remove a node with one output; who read it reads `instead`."""
    read_instead(node.outputs[0], instead)
    remove(graph, node)


def hold(graph: gs.Graph, node: gs.Node) -> None:
    """A one-input Sum behind `node`: it computes nothing, and onnxruntime fuses nothing over it."""
    result = node.outputs[0]
    held = gs.Variable(f"{result.name}.float", result.dtype, result.shape)
    node.outputs = [held]
    graph.nodes.append(gs.Node("Sum", f"{node.name}/keep_float", {}, [held], [result]))


def infer_shapes(graph: gs.Graph) -> None:
    """Fill in the types and shapes that follow from those of the inputs; no other is kept.

    A dimension is a number, or a name or None where it is not known.
    """
    inferred = onnx.shape_inference.infer_shapes(_skeleton(graph), data_prop=True).graph
    found = {info.name: info.type.tensor_type for info in inferred.value_info}
    for tensor in (each for node in graph.nodes for each in node.outputs):
        if is_output(graph, tensor):
            continue
        kind = found.get(tensor.name)
        tensor.shape = None
        if kind is not None and kind.HasField("shape"):
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            tensor.shape = [
                each.dim_value if each.HasField("dim_value") else each.dim_param or None
                for each in kind.shape.dim
            ]


def _skeleton(graph: gs.Graph) -> onnx.ModelProto:
    """The graph with inputs in the place of its weights, and no shapes noted within."""
    read = (each for node in graph.nodes for each in node.inputs)
    constants = {id(each): each for each in read if isinstance(each, gs.Constant)}.values()
    sizes = [each for each in constants if np.prod(each.shape) <= _SIZES]
    weights = [each for each in constants if np.prod(each.shape) > _SIZES]
    skeleton = onnx.helper.make_graph(
        [OnnxExporter.export_node(node) for node in graph.nodes],
        "skeleton",
        [OnnxExporter.export_value_info_proto(each, False) for each in (*graph.inputs, *weights)],
        [OnnxExporter.export_value_info_proto(each, False) for each in graph.outputs],
        [OnnxExporter.export_tensor_proto(each) for each in sizes],
    )
    others = [each for each in graph.import_domains or () if each.domain]
    opsets = [onnx.helper.make_opsetid("", graph.opset), *others]
    return onnx.helper.make_model(skeleton, opset_imports=opsets)
