"""Shapes of a model's tensors, and how many multiply-accumulates each node does."""

from collections.abc import Mapping, Sequence
from math import prod

import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, TensorProto, helper

from qdq.graph.linting.nodes import Node
from qdq.graph.speed.constants import fold_constants

Shapes = Mapping[str, tuple[int, ...]]
_SMALL = 64  # elements; sizes that shapes are computed from have no more
# Where the weight stands among the inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def infer_tensors(
    model: ModelProto, sizes: Mapping[str, int]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape and TensorProto type of every tensor for which they follow from the inputs.

    Args:
        model: the model; what its weights hold is not looked at.
        sizes: of dimensions with names; others that vary are 1.
    """
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        skeleton = _skeleton(model, sizes)
        inferred = onnx.shape_inference.infer_shapes(skeleton).graph
        graph = gs.import_onnx(skeleton)
        fold_constants(graph)  # sizes that are computed become known
    except Exception:  # whatever they object to: shapes are only a help here
        return shapes, kinds
    for name, tensor in graph.tensors().items():
        if tensor.shape is not None and all(isinstance(each, int) for each in tensor.shape):
            shapes[name] = tuple(tensor.shape)
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = info.type.tensor_type
        kinds[info.name] = kind.elem_type
        if kind.HasField("shape") and all(each.HasField("dim_value") for each in kind.shape.dim):
            shapes.setdefault(info.name, tuple(each.dim_value for each in kind.shape.dim))
    return shapes, kinds


def _skeleton(model: ModelProto, sizes: Mapping[str, int]) -> ModelProto:
    """The model with inputs in the place of its weights, and no shapes noted within."""
    graph = GraphProto(name="skeleton", node=model.graph.node)
    held = {each.name: each for each in model.graph.initializer}
    for name, each in held.items():
        if prod(each.dims) <= _SMALL and each.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(each)
        else:
            graph.input.append(helper.make_tensor_value_info(name, each.data_type, each.dims))
    for info in model.graph.input:
        if info.name not in held:
            given = graph.input.add()
            given.CopyFrom(info)
            for dim in given.type.tensor_type.shape.dim:
                dim.dim_value = _size(dim, sizes)
    for info in model.graph.output:
        kind = info.type.tensor_type.elem_type
        graph.output.append(helper.make_tensor_value_info(info.name, kind, None))
    return ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)


def _size(dim: onnx.TensorShapeProto.Dimension, sizes: Mapping[str, int]) -> int:
    return dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, 1)


def macs_of(node: Node, shapes: Shapes) -> int | None:
    """Multiply-accumulates of a node; None where it has none, or a shape is not known."""
    op = node.op
    made, given = _shape(node.outputs, 0, shapes), _shape(node.inputs, 0, shapes)
    if op in _CONVOLUTIONS:
        weight = _shape(node.inputs, _CONVOLUTIONS[op], shapes)
        return _product(made, weight and weight[1:])
    if op == "ConvTranspose":
        weight = _shape(node.inputs, 1, shapes)
        return _product(given, weight and weight[1:])
    if op in _PRODUCTS:
        return _product(made, given and given[-1:])
    if op == "Gemm":
        summed = 0 if node.attribute("transA", 0) else 1
        return _product(made, given and given[summed : summed + 1])
    if op in _RECURRENT:
        weight, recurrent = _shape(node.inputs, 1, shapes), _shape(node.inputs, 2, shapes)
        if given is None or weight is None or recurrent is None:
            return None
        return _product(given[:2], (weight[0], weight[1], weight[2] + recurrent[2]))
    return None


def _shape(names: Sequence[str], index: int, shapes: Shapes) -> tuple[int, ...] | None:
    return shapes.get(names[index]) if index < len(names) else None


def _product(*shapes: tuple[int, ...] | None) -> int | None:
    known = [each for each in shapes if each is not None]
    return prod(size for each in known for size in each) if len(known) == len(shapes) else None
