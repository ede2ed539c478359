"""Functions of codes, from tables: QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax."""

import functools
from collections.abc import Callable

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from qdq.graph.edges import Array
from qdq.graph.simulation.arithmetic import dequantize, quantize
from qdq.graph.simulation.kernels import KERNELS, MICROSOFT, Attributes, Inputs, optional
from qdq.graph.simulation.sessions import opened

_LARGEST = np.finfo(np.float32).max


@KERNELS.add((MICROSOFT, "QLinearSigmoid"))
def sigmoid(_: Attributes, inputs: Inputs) -> Array | None:
    """Sigmoid of codes; that of the floats is an approximation, for which onnxruntime is asked."""
    return _by_table(inputs, lambda x: _logistic().run(None, {"x": x})[0])


@KERNELS.add((MICROSOFT, "QLinearLeakyRelu"))
def leaky_relu(attributes: Attributes, inputs: Inputs) -> Array | None:
    """LeakyRelu of codes."""
    slope = np.float32(attributes.get("alpha", 0.01))
    return _by_table(inputs, lambda x: np.where(x >= 0, x, x * slope))


@KERNELS.add((MICROSOFT, "QLinearSoftmax"))
def softmax(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Softmax of codes: exponentials from a table, float32 sums of them one after another."""
    x, x_scale, _, y_scale, y_zero = _operands(inputs)
    flat = attributes["opset"] < 13
    axis = attributes.get("axis", 1 if flat else -1)
    rows = x.reshape(*x.shape[:axis], -1) if flat else np.moveaxis(x, axis, -1)
    steps = rows.astype(np.int32) - rows.max(axis=-1, keepdims=True)  # 0 and less
    powers = _exponentials(float(x_scale), rows.shape[-1])[steps + 255]
    sums = np.cumsum(powers, axis=-1, dtype=np.float32)[..., -1:]
    y = _cast(np.rint(powers * np.floor(np.float32(1) / y_scale) / sums), y_zero)
    return y.reshape(x.shape) if flat else np.moveaxis(y, -1, axis)


@functools.cache
def _logistic() -> onnxruntime.InferenceSession:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [256]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["y"])], "logistic", ends[:1], ends[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return opened(model.SerializeToString(), "", optimize=False)


def _exponentials(scale: float, length: int) -> Array:
    """exp(scale * steps) for -255 to 0 steps, so large that the sum of `length` is finite."""
    shift = max(0.0, float(np.log(_LARGEST / np.float32(length))) - 5.0) / scale
    table: Array = np.exp((np.arange(256.0) - 255 + shift) * scale).astype(np.float32)
    return table


def _cast(shares: Array, zero_point: Array) -> Array:
    """Rounded shares and a zero point as codes; those without sign are summed modulo 2^32."""
    unsigned = zero_point.dtype == np.uint8
    most = 2.0**63 if unsigned else 2.0**31  # what fits no integer is the smallest one on x86
    whole = np.where(np.abs(shares) < most, shares, -most).astype(np.int64) + zero_point
    wrapped, info = whole.astype(np.uint32 if unsigned else np.int32), np.iinfo(zero_point.dtype)
    codes: Array = np.clip(wrapped, info.min, info.max).astype(zero_point.dtype)
    return codes


def _operands(inputs: Inputs) -> list[Array]:
    """Codes and their grid, scale and zero point; that of the result; zero points are optional."""
    x, x_scale, y_scale = (np.asarray(inputs[index]) for index in (0, 1, 3))
    x_zero, y_zero = (
        np.zeros((), x.dtype) if (given := optional(inputs, index)) is None else given
        for index in (2, 4)
    )
    return [x, x_scale, x_zero, y_scale, y_zero]


def _by_table(inputs: Inputs, function: Callable[[Array], Array]) -> Array:
    x, x_scale, x_zero, y_scale, y_zero = _operands(inputs)
    info = np.iinfo(x.dtype)
    every = np.arange(info.min, info.max + 1).astype(x.dtype)
    table = quantize(function(dequantize(every, x_scale, x_zero)), y_scale, y_zero)
    found: Array = table[x.astype(np.int32) - info.min]
    return found
