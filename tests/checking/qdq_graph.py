"""An ONNX graph as the rules ask about it: makers, readers, constants, and where pairs stand."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Q, DQ = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Their output holds values of their first input and no others.
MOVERS = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather",
    "Split", "Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Dropout", "Pad",
})  # fmt: skip
ACTIVATIONS = frozenset({
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu",
    "Selu", "Celu", "Softplus", "Mish", "Gelu", "Erf",
})  # fmt: skip
POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
NOWHERE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Use:
    """A reader of a tensor; `node` is None where the tensor is an output of the graph."""

    node: NodeProto | None
    index: int = 0

    @property
    def op(self) -> str:
        return self.node.op_type if self.node is not None else ""


class Graph:
    """A view of one model; nothing is changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = next(each.version for each in model.opset_import if not each.domain)
        self.nodes = list(model.graph.node)
        self.outputs = {each.name for each in model.graph.output}
        self._model = model
        self._held = {each.name: each for each in model.graph.initializer}
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[Use]] = defaultdict(list)
        for node in self.nodes:
            for index, name in enumerate(node.input):
                self._readers[name].append(Use(node, index))

    def of(self, *ops: str) -> Iterator[NodeProto]:
        """The nodes of these operators, in the order of the file."""
        return (node for node in self.nodes if node.op_type in ops)

    def maker(self, tensor: str) -> NodeProto | None:
        return self._makers.get(tensor)

    def op(self, tensor: str) -> str:
        """The operator that makes a tensor; "" for inputs and initializers."""
        node = self.maker(tensor)
        return node.op_type if node is not None else ""

    def uses(self, tensor: str, through: Collection[str] = NOWHERE) -> list[Use]:
        """Who reads a tensor, forward through operators of `through` on its way."""
        found = [Use(None)] if tensor in self.outputs else []
        for use in self._readers[tensor]:
            if use.node is not None and use.op in through and self.carries(use):
                found += [each for name in use.node.output for each in self.uses(name, through)]
            else:
                found.append(use)
        return found

    def source(self, tensor: str, through: Collection[str]) -> str:
        """The tensor it comes from, back through the first inputs of operators of `through`."""
        node = self.maker(tensor)
        while node is not None and node.op_type in through:
            tensor = node.input[0]
            node = self.maker(tensor)
        return tensor

    def dq(self, tensor: str, through: Collection[str] = NOWHERE) -> NodeProto | None:
        """The DequantizeLinear a tensor comes from, back through operators of `through`."""
        node = self.maker(self.source(tensor, through))
        return node if node is not None and node.op_type == DQ else None

    def bare(self, tensor: str) -> str:
        """The float tensor in front of the pair that makes `tensor`; itself without one."""
        dq = self.dq(tensor)
        quantizer = self.maker(dq.input[0]) if dq is not None else None
        if quantizer is not None and quantizer.op_type == Q:
            return self.bare(quantizer.input[0])
        return tensor

    def layer(self, tensor: str) -> NodeProto | None:
        """The Conv, ConvTranspose, Gemm or MatMul a tensor leaves, its bias or BatchNorm added."""
        node = self.maker(tensor)
        if node is not None and node.op_type == "BatchNormalization":
            node = self.maker(node.input[0])
        if node is not None and node.op_type == "Add":
            moving = self.moving(node)
            node = self.maker(moving[0]) if len(moving) == 1 else None
        return node if node is not None and node.op_type in WEIGHTED else None

    def moving(self, node: NodeProto) -> list[str]:
        """The inputs of a node that depend on the input of the graph."""
        return [name for name in node.input if name and not self.constant(name)]

    def constant(self, tensor: str) -> bool:
        return tensor in self._constants

    def quantized_inputs(self, node: NodeProto) -> list[str]:
        """The inputs that hold dequantized codes, moved or not."""
        return [name for name in node.input if self.dq(name, MOVERS) is not None]

    @staticmethod
    def carries(use: Use) -> bool:
        """Whether the values of the tensor pass through (and not, say, the shape it sets)."""
        return use.index == 0 or use.op == "Concat"

    def value(self, tensor: str) -> np.ndarray | None:
        """The values of an initializer or Constant; None for all else."""
        if tensor in self._held:
            return numpy_helper.to_array(self._held[tensor])
        node = self.maker(tensor)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return numpy_helper.to_array(node.attribute[0].t)
        if node is not None and node.op_type == "Identity":
            return self.value(node.input[0])
        return None

    def scale(self, boundary: NodeProto) -> np.ndarray | None:
        return self.value(boundary.input[1])

    def zero_point(self, boundary: NodeProto) -> np.ndarray | None:
        return self.value(boundary.input[2]) if len(boundary.input) > 2 else None

    def codes(self, boundary: NodeProto) -> int:
        """The TensorProto type of the codes of a Q or DQ; UNDEFINED if the file does not say."""
        held = [boundary.input[2]] if len(boundary.input) > 2 else []
        held += [boundary.input[0]] if boundary.op_type == DQ else []
        for name in held:
            if name in self._held:
                return int(self._held[name].data_type)
            node = self.maker(name)
            if node is not None and node.op_type == "Constant":
                return int(node.attribute[0].t.data_type)
        quantizer = self.maker(boundary.input[0]) if boundary.op_type == DQ else None
        if quantizer is not None and quantizer.op_type == Q:
            return self.codes(quantizer)
        return TensorProto.UINT8 if boundary.op_type == Q else TensorProto.UNDEFINED

    def same_steps(self, one: NodeProto, other: NodeProto) -> bool:
        """Whether two Qs or DQs have equal scales and zero points."""
        scales, points = (self.scale(one), self.scale(other)), map(self.zero_point, (one, other))
        zeros = [0 if each is None else each for each in points]
        return bool(np.array_equal(*scales) and np.array_equal(*zeros))  # type: ignore[arg-type]

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Its lengths, None where they are free; None if shape inference does not know."""
        held = self._held.get(tensor)
        return tuple(held.dims) if held is not None else self._shapes.get(tensor)

    @cached_property
    def _constants(self) -> set[str]:
        known = set(self._held) | {""}
        for node in self.nodes:  # ONNX keeps them in topological order
            if all(name in known for name in node.input):
                known.update(node.output)
        return known

    @cached_property
    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        graph = onnx.shape_inference.infer_shapes(self._model).graph
        return {
            each.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in each.type.tensor_type.shape.dim
            )
            for each in (*graph.value_info, *graph.input, *graph.output)
            if each.type.tensor_type.HasField("shape")
        }


def attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer (or whole float) attribute of a node."""
    for each in node.attribute:
        if each.name == name:
            return int(helper.get_attribute_value(each))
    return default
