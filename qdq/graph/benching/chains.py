"""Chain: a small net built op by op, in float or in integers, that knows what takes its time."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, Array
from qdq.targets.costs.layers import Bill, Layer, float_terms, integer_terms

REORDER = "reorder"  # a row of bills, not of tables: whole nets hardly have it
_OPSET, _IR_VERSION = 13, 8


@dataclass(frozen=True)
class Sample:
    """A net and what of it takes time.

    Attributes:
        name: what it is made of.
        content: the file.
        bill: terms of all that runs.
    """

    name: str
    content: bytes
    bill: Bill


class Chain:
    """A net in which each op reads the result of the one before.

    Weights are random: time does not depend on them.
    """

    _SCALE = np.float32(0.05)  # of every activation

    def __init__(self, *shape: int) -> None:
        """Begin with an input of this shape, in float."""
        self.shape = shape
        self._given = shape
        self._integer = False
        self._bill: Bill = [("session", {"call": 1.0})]
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._rng = np.random.default_rng(0)
        self._first = self._last = "x"

    def conv(self, outputs: int, side: int, *, stride: int = 1, groups: int = 1) -> Self:
        """A convolution with a Relu; zeros around keep the size."""
        rows, inputs, *pixels = self.shape
        made = [-(-each // stride) for each in pixels]
        kernel = (outputs, inputs // groups, side, side)
        places = rows * math.prod(made)
        layer = Layer(outputs, kernel[1], side**2, groups, places, math.prod(self.shape))
        self.shape = (rows, outputs, *made)
        pads, strides = [side // 2] * 4, [stride] * 2
        return self._layer("Conv", layer, kernel, group=groups, strides=strides, pads=pads)

    def gemm(self, outputs: int) -> Self:
        """A matrix product with a Relu."""
        rows, inputs = self.shape
        layer = Layer(outputs, inputs, 1, 1, rows, rows * inputs, matrix=True)
        self.shape = (rows, outputs)
        return self._layer("Gemm", layer, (inputs, outputs))

    def combine(self, op: str) -> Self:
        """An Add or Mul of the result and what the chain, or its integer part, began with."""
        self._take({"Add": "sum", "Mul": "product"}[op])
        self._node(op, self._last, self._first)
        return self._paired()

    def pool(self) -> Self:
        """Means of 2x2 pixels each."""
        self._take("pool")
        self._node("AveragePool", self._last, kernel_shape=[2, 2], strides=[2, 2])
        self.shape = (*self.shape[:2], *(each // 2 for each in self.shape[2:]))
        return self._paired()

    def mean(self) -> Self:
        """Means over the whole map."""
        self._take("mean")
        self._node("GlobalAveragePool", self._last)
        self.shape = (*self.shape[:2], 1, 1)
        return self._paired()

    def sigmoid(self) -> Self:
        """An op that only has a float kernel."""
        self._take("other")
        self._node("Sigmoid", self._last)
        return self

    def enter(self, kind: str, *, more: int = 0) -> Self:
        """Go on in integers, with so many channels more, copied together as codes.

        Args:
            kind: whether the edge is that of a "vector", a "map" or an "image".
            more: channels that a Pad adds.
        """
        self._bill.append((f"{kind}.in", self._elements()))
        self._integer = True
        grid = self._constant(self._SCALE, np.uint8(0))
        self._node(QUANTIZE, self._last, *grid)
        if more:
            pads = np.zeros(2 * len(self.shape), np.int64)
            pads[len(self.shape) + 1] = more
            self._node("Pad", self._last, *self._constant(pads, np.uint8(0)))
            self.shape = (self.shape[0], self.shape[1] + more, *self.shape[2:])
            self._bill.append(("copy", self._elements()))
        self._first = self._node(DEQUANTIZE, self._last, *grid)
        return self

    def leave(self, kind: str) -> Self:
        """Go on in float."""
        self._bill.append((f"{kind}.out", self._elements()))
        self._integer = False
        return self

    def reorder(self) -> Self:
        """Note that float kernels for images change the layout here, as they do at both ends."""
        self._bill.append((REORDER, self._elements()))
        return self

    def sample(self, name: str) -> Sample:
        """The net so far."""
        give = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "sample",
            [give("x", TensorProto.FLOAT, self._given)],
            [give(self._last, TensorProto.FLOAT, self.shape)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return Sample(name, model.SerializeToString(), self._bill)

    def _layer(self, op: str, layer: Layer, kernel: tuple[int, ...], **attributes: Any) -> Self:
        self._bill.append(integer_terms(layer) if self._integer else float_terms(layer))
        spread = 1 / math.sqrt(layer.inputs * layer.kernel)
        weight = self._rng.uniform(-spread, spread, kernel).astype(np.float32)
        bias = self._rng.uniform(-spread, spread, layer.outputs).astype(np.float32)
        factors = self._coded(weight, bias) if self._integer else self._constant(weight, bias)
        self._node(op, self._last, *factors, **attributes)
        self._node("Relu", self._last)
        return self._paired()

    def _coded(self, weight: Array, bias: Array) -> list[str]:
        """Weight and bias as codes behind DQ, one scale per channel out."""
        axis = 1 if weight.ndim == 2 else 0
        scale = np.full(len(bias), np.abs(weight).max() / 127, np.float32)
        codes = np.rint(weight / scale[0]).astype(np.int8)
        sums = np.rint(bias / (self._SCALE * scale)).astype(np.int32)
        last = self._last
        names = [
            self._node(
                DEQUANTIZE, *self._constant(codes, scale, np.zeros_like(scale, np.int8)), axis=axis
            ),
            self._node(DEQUANTIZE, *self._constant(sums, self._SCALE * scale), axis=0),
        ]
        self._last = last
        return names

    def _paired(self) -> Self:
        """In integers, Q and DQ with operands of their own."""
        if self._integer:
            grid = self._constant(self._SCALE, np.uint8(0))
            self._node(QUANTIZE, self._last, *grid)
            self._node(DEQUANTIZE, self._last, *grid)
        return self

    def _take(self, row: str) -> None:
        self._bill.append((f"{row}.{'int8' if self._integer else 'float'}", self._elements()))

    def _elements(self) -> dict[str, float]:
        return {"element": float(math.prod(self.shape)), "call": 1.0}

    def _constant(self, *values: Any) -> list[str]:
        names = [f"c{len(self._constants) + index}" for index in range(len(values))]
        self._constants += [
            numpy_helper.from_array(np.asarray(each), name)
            for each, name in zip(values, names, strict=True)
        ]
        return names

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        self._last = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [self._last], **attributes))
        return self._last
