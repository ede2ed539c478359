"""Nodes of an ONNX graph as rules ask about them, and the families of operators."""

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

Array: TypeAlias = NDArray[Any]
T = TypeVar("T", int, float, bytes, list[int])

Q, DQ = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What they give are values of their first input (of a Concat: of any) and no others.
COPIES = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather",
    "Split", "Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Dropout",
})  # fmt: skip
MOVERS = COPIES | {"Pad"}  # a Pad adds zeros, which every grid holds
ACTIVATIONS = frozenset({
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu",
    "Selu", "Celu", "Softplus", "Mish", "Gelu", "Erf",
})  # fmt: skip
_OURS = ("", "ai.onnx", "com.microsoft")
_TYPES = {
    int: AttributeProto.INT,
    float: AttributeProto.FLOAT,
    bytes: AttributeProto.STRING,
    list: AttributeProto.INTS,
}


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One node; two are equal only if they are the same.

    Attributes:
        proto: where it comes from.
        op: its operator; of a foreign domain with that in front.
        inputs: names, "" for one that is left out.
        outputs: likewise.
    """

    proto: NodeProto
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its name, or its operator and first output."""
        return self.proto.name or f"{self.op} -> {self.result}"

    @property
    def result(self) -> str:
        """The name of its first output."""
        return self.outputs[0] if self.outputs else ""

    def attribute(self, name: str, default: T) -> T:
        """The value of an attribute of the type of `default`, which stands for any other."""
        for each in self.proto.attribute:
            if each.name == name and each.type == _TYPES[type(default)]:
                value: T = helper.get_attribute_value(each)
                return value
        return default

    def input(self, index: int) -> str:
        """The name of an input; "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True, slots=True)
class Use:
    """A reader of a tensor: a node and the number of its input.

    `node` is None where the tensor is an output of the graph. A tensor that a branch or body reads
    is read by the node that holds it, at -1.
    """

    node: Node | None
    index: int = 0

    @property
    def op(self) -> str:
        """The operator; "" for an output of the graph."""
        return self.node.op if self.node is not None else ""


def node_of(proto: NodeProto) -> Node:
    """A node of a file; com.microsoft has the same Q and DQ for more types."""
    op = proto.op_type if proto.domain in _OURS else f"{proto.domain}.{proto.op_type}"
    return Node(proto, op, tuple(proto.input), tuple(proto.output))


def array_of(held: TensorProto) -> Array | None:
    """The values of a tensor; None if they cannot be read."""
    try:
        values: Array = numpy_helper.to_array(held)
    except Exception:  # types numpy does not know, lists shorter than they say
        return None
    return values


def constant_of(node: Node) -> TensorProto | None:
    """What a Constant holds; None for text and sparse values."""
    for each in node.proto.attribute:
        if each.name == "value":
            held: TensorProto = each.t
            return held
        if each.name in ("value_float", "value_int", "value_floats", "value_ints"):
            kind = np.float32 if "float" in each.name else np.int64
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(each), kind))
    return None
