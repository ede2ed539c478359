"""Hand-made ONNX graphs of a few nodes, written as they are read: x to y."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

Build = Callable[[bool], onnx.ModelProto]
SHAPES: dict[str, list[int]] = {"image": [1, 2, 4, 4], "rows": [2, 4], "text": [1, 3, 4]}


class Net:
    """A graph under construction: every method adds nodes and gives the name of their output."""

    def __init__(self, shape: str = "image", *, opset: int = 13, signed: bool = True) -> None:
        self.opset, self.signed = opset, signed
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPES[shape])]

    def another_input(self, shape: str = "image") -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPES[shape]))
        return name

    def hold(self, values: ArrayLike, dtype: Any = np.float32) -> str:
        name = f"c{len(self.held)}"
        self.held.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def pair(self, x: str, scale: ArrayLike = 0.1, zero: int | None = None, **axis: int) -> str:
        """QuantizeLinear and DequantizeLinear; codes int8 or uint8 as the net has them."""
        dtype = np.int8 if self.signed else np.uint8
        point = np.full(np.shape(scale), zero or 0, dtype)
        steps = (self.hold(scale), self.hold(point, dtype))
        return self.op(
            "DequantizeLinear", self.op("QuantizeLinear", x, *steps, **axis), *steps, **axis
        )

    def weight(
        self, shape: tuple[int, ...], axis: int | None = 0, *, code: int = 1, scale: float = 0.01
    ) -> str:
        """Codes and a DequantizeLinear, one scale per entry of an axis or one in all."""
        codes = self.hold(np.full(shape, code), np.int8)
        if axis is None:
            return self.op("DequantizeLinear", codes, self.hold(scale), self.hold(0, np.int8))
        many = np.full(shape[axis], scale)
        zeros = self.hold(np.zeros(shape[axis]), np.int8)
        return self.op("DequantizeLinear", codes, self.hold(many), zeros, axis=axis)

    def bias(self, count: int, code: int = 1, scale: float = 0.001) -> str:
        """int32 codes and a DequantizeLinear; the default scale is 0.1 * 0.01."""
        codes, zeros = self.hold(np.full(count, code), np.int32), self.hold([0] * count, np.int32)
        steps = self.hold(np.full(count, scale))
        return self.op("DequantizeLinear", codes, steps, zeros, axis=0)

    def conv(self, x: str, **attributes: Any) -> str:
        """A 1x1 Conv of two channels with an int8 weight."""
        return self.op("Conv", x, self.weight((2, 2, 1, 1)), **attributes)

    def float_conv(self, x: str) -> str:
        return self.op("Conv", x, self.hold(np.ones((2, 2, 1, 1))))

    def model(self, *outputs: str) -> onnx.ModelProto:
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "tiny", self.inputs, results, self.held)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


class Cases(dict[str, Build]):
    """Functions that build the graph of a rule, broken or kept, by rule and, if many, a word."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks: dict[str, set[str]] = {}

    def rule(self, name: str, also: str = "") -> Callable[[Build], Build]:
        """Keep a function; broken, its graph breaks this rule and `also` another one."""

        def keep(build: Build) -> Build:
            assert name not in self
            self[name], self.breaks[name] = build, {name[:3], also} - {""}
            return build

        return keep
