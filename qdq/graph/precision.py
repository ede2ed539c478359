"""Half precision for what stays float in a Q/DQ graph; its integer part keeps its numbers.

Q and DQ keep float32 scales, so that codes are those of the float32 file: a scale rounded to half
would move them. What lies between DQ and Q, or multiplies two DQ, is run in integers and keeps
float32 too; casts stand where that part ends.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qdq.errors import GraphError
from qdq.graph.edges import DEQUANTIZE, QUANTIZE, Array
from qdq.graph.external_data import without_data
from qdq.graph.passes import COMMUTING

FLOAT = TensorProto.FLOAT
HALVES: dict[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_LARGEST: dict[int, float] = {
    TensorProto.FLOAT16: 65504.0,
    TensorProto.BFLOAT16: (2 - 2.0**-7) * 2.0**127,
}
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Ops that are run on codes where they stand between DQ and Q.
_BETWEEN = {"Add", "AveragePool", "Clip", "Concat", "Gather", "GlobalAveragePool", "LeakyRelu"}
_BETWEEN |= {"Mul", "Pad", "Relu", "Resize", "Sigmoid", "Softmax", "Split", "Sum", *COMMUTING}
_MAKERS = ("Cast", "ConstantOfShape", "Constant")  # an attribute says what type they make


def narrow(model: ModelProto, precision: str, data: dict[str, Array]) -> None:
    """Put the float rest of the model into half precision, inputs and outputs included, in place.

    An operator that ONNX does not define for that type in this opset stays float32 (a Conv knows
    bfloat16 from opset 22 on).

    Args:
        model: a float32 Q/DQ graph with the types of all tensors noted; from then on, only those
            of inputs and outputs are.
        precision: "float16" or "bfloat16".
        data: values of constants that are not in the model, by name; rounded ones are added, and
            those that nobody reads any more removed.

    Raises:
        GraphError: a node holds a graph of its own.
    """
    _Narrowing(model, HALVES[precision], data).run()


class _Narrowing:
    """One model on its way to a half precision type."""

    def __init__(self, model: ModelProto, half: int, data: dict[str, Array]) -> None:
        self.model, self.half, self.data = model, half, data
        graph = model.graph
        self.opset = next(each.version for each in model.opset_import if not each.domain)
        self.constants = {each.name: each for each in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        noted = (*graph.input, *graph.output, *graph.value_info)
        self.floats = {each.name for each in noted if each.type.tensor_type.elem_type == FLOAT}
        self.floats |= {each.name for each in graph.initializer if each.data_type == FLOAT}
        self.outputs = {each.name for each in graph.output}
        self.types = {each.name: half for each in graph.input if each.name in self.floats}
        self.nodes: list[NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}  # (tensor, type) -> its name in that type

    def run(self) -> None:
        graph = self.model.graph
        integer = self._integer_part()
        for node in graph.node:
            self._convert(node, float32=node.output[0] in integer)
        for name in sorted(self.outputs & self.types.keys()):
            self._give(name)
        self._keep_names()
        used = {name for node in self.nodes for name in node.input} | self.outputs
        constants = [each for name, each in self.constants.items() if name in used]
        for values, kept in ((graph.node, self.nodes), (graph.initializer, constants)):
            copies = list(kept)
            del values[:]
            values.extend(copies)
        for each in (*graph.input, *graph.output):
            if each.name in self.floats:
                each.type.tensor_type.elem_type = self.half
        graph.ClearField("value_info")
        for name in self.data.keys() - used:
            del self.data[name]

    def _integer_part(self) -> set[str]:
        """First outputs of the nodes that runtimes run in integers: Q, DQ and what is between."""
        wanted: set[str] = set()
        for node in reversed(self.model.graph.node):
            if node.op_type in (QUANTIZE, DEQUANTIZE) or self._is_product(node):
                wanted.add(node.output[0])
            elif node.op_type in _BETWEEN and not self.outputs.intersection(node.output):
                readers = [each for name in node.output for each in self.readers.get(name, ())]
                if readers and all(each.output[0] in wanted for each in readers):
                    wanted.add(node.output[0])
        part: set[str] = set()
        for node in self.model.graph.node:
            if node.output[0] in wanted and self._is_fed(node, part):
                part.add(node.output[0])
        return part

    def _is_product(self, node: NodeProto) -> bool:
        makers = [self.makers.get(name) for name in node.input[:2]]
        return node.op_type in _PRODUCTS and all(
            each is not None and each.op_type == DEQUANTIZE for each in makers
        )

    def _is_fed(self, node: NodeProto, part: set[str]) -> bool:
        """Whether all it computes on comes out of the integer part."""
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            return True
        floats = [name for name in node.input if name in self.floats]
        computed = [name for name in floats if name not in self.constants]
        return bool(computed) and part.issuperset(computed)

    def _convert(self, node: NodeProto, *, float32: bool) -> None:
        """Append the node, with the types that it has from now on."""
        if any(
            each.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for each in node.attribute
        ):
            raise GraphError(
                f"{node.op_type} holds a graph of its own, which is left in float32",
                at=node.name,
                fix='pass precision="float32"',
            )
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        free = set() if float32 else self._free_types(schema, node)
        kinds = list(_formals(schema.inputs, node.input))
        for index, name in enumerate(node.input):
            if name in self.floats:
                kind = self.half if kinds[index] in free else FLOAT
                node.input[index] = self._as(name, kind)
        made = _formals(schema.outputs, node.output)
        for name, variable in zip(node.output, made, strict=True):
            if name in self.floats:
                self.types[name] = self.half if variable in free else FLOAT
        if free and node.op_type in _MAKERS:
            self._make_half(node)
        self.nodes.append(node)

    def _free_types(self, schema: onnx.defs.OpSchema, node: NodeProto) -> set[str]:
        """Type variables of the operator that are float32 here and may be half."""
        name = "tensor(float16)" if self.half == TensorProto.FLOAT16 else "tensor(bfloat16)"
        allowed = {
            each.type_param_str
            for each in schema.type_constraints
            if name in each.allowed_type_strs
        }
        given = _bound(schema.inputs, node.input, self.floats)
        made = _bound(schema.outputs, node.output, self.floats)
        variables = {each.type_param_str for each in schema.type_constraints}
        tied = node.op_type in _MAKERS or made & variables <= given
        return (
            (given | made) & variables if tied and (given | made) & variables <= allowed else set()
        )

    def _make_half(self, node: NodeProto) -> None:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # says: zeros of float32
            zero = numpy_helper.from_array(np.zeros(1, np.float32))
            node.attribute.append(helper.make_attribute("value", zero))
        for each in node.attribute:
            if each.name == "to" and each.i == FLOAT:
                each.i = self.half
            elif each.name == "value" and each.t.data_type == FLOAT:
                values = self._rounded(numpy_helper.to_array(each.t))
                each.t.CopyFrom(numpy_helper.from_array(values))
            elif each.name in ("value_float", "value_floats"):
                one = each.name == "value_float"
                values = self._rounded(np.array(each.f if one else list(each.floats), np.float32))
                each.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))

    def _as(self, name: str, kind: int) -> str:
        """The name of this tensor in that type."""
        if name not in self.constants and self.types[name] == kind:
            return name
        if name in self.constants and kind == FLOAT:
            return name
        if (name, kind) not in self.made:
            ending = TensorProto.DataType.Name(kind).lower()
            other = self.made[name, kind] = f"{name}.{ending}"
            if name in self.data:
                self.data[other] = self._rounded(self.data[name])
                self.constants[other] = without_data(other, self.data[other])
            elif name in self.constants:
                values = self._rounded(numpy_helper.to_array(self.constants[name]))
                self.constants[other] = numpy_helper.from_array(values, other)
            else:
                self.nodes.append(_cast(name, other, kind))
        return self.made[name, kind]

    def _rounded(self, values: Array) -> Array:
        """In half precision; what is finite stays finite."""
        largest = np.float32(_LARGEST[self.half])
        kept = np.where(np.isfinite(values), values.clip(-largest, largest), values)
        rounded: Array = kept.astype(helper.tensor_dtype_to_np_dtype(self.half))
        return rounded

    def _keep_names(self) -> None:
        """Let constants that nobody reads in float32 any more be called what they were."""
        used = {name for node in self.nodes for name in node.input} | self.outputs
        kept = {
            other: name
            for (name, _), other in self.made.items()
            if name in self.constants and name not in used
        }
        for other, name in kept.items():
            self.constants[name] = self.constants.pop(other)
            self.constants[name].name = name
            if other in self.data:
                self.data[name] = self.data.pop(other)
        for node in self.nodes:
            node.input[:] = [kept.get(name, name) for name in node.input]

    def _give(self, name: str) -> None:
        """Let an output of the graph be half."""
        if self.types[name] == self.half or name not in self.makers:
            return
        inner = f"{name}.float"
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, each in enumerate(names):
                    names[index] = inner if each == name else each
        self.nodes.append(_cast(inner, name, self.half))


def _cast(name: str, result: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [name], [result], f"{result}/Cast", to=kind)


def _formals(parameters: Iterable[Any], names: Iterable[str]) -> Iterator[str]:
    """What the operator says of the type of each tensor; of a list's, what it says of the list."""
    said = [each.type_str for each in parameters]
    for index, _ in enumerate(names):
        yield said[min(index, len(said) - 1)]


def _bound(parameters: Iterable[Any], names: Iterable[str], floats: set[str]) -> set[str]:
    """Type variables and types that are float32 here."""
    names = list(names)
    return {
        kind
        for kind, name in zip(_formals(parameters, names), names, strict=True)
        if name in floats
    }
