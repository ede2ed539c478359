"""Functions of codes, from tables: QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax."""

from collections.abc import Callable

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.simulation.arithmetic import dequantize, quantize, saturated
from qdq.graph.simulation.kernels import KERNELS, MICROSOFT, Attributes, Inputs, first

_LARGEST = np.finfo(np.float32).max


@KERNELS.add((MICROSOFT, "QLinearSigmoid"))
def sigmoid(_: Attributes, inputs: Inputs) -> Array | None:
    """Sigmoid of codes."""
    return _by_table(inputs, lambda x: (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32))


@KERNELS.add((MICROSOFT, "QLinearLeakyRelu"))
def leaky_relu(attributes: Attributes, inputs: Inputs) -> Array | None:
    """LeakyRelu of codes."""
    slope = np.float32(attributes.get("alpha", 0.01))
    return _by_table(inputs, lambda x: np.where(x >= 0, x, x * slope))


@KERNELS.add((MICROSOFT, "QLinearSoftmax"))
def softmax(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Softmax of codes: exponentials from a table, float32 sums of them one after another."""
    x, x_scale, _, y_scale, y_zero = first(inputs, 5)
    flat = attributes["opset"] < 13
    axis = attributes.get("axis", 1 if flat else -1)
    rows = x.reshape(*x.shape[:axis], -1) if flat else np.moveaxis(x, axis, -1)
    steps = rows.astype(np.int32) - rows.max(axis=-1, keepdims=True)  # 0 and less
    powers = _exponentials(float(x_scale), rows.shape[-1])[steps + 255]
    sums = np.cumsum(powers, axis=-1, dtype=np.float32)[..., -1:]
    shares = np.rint(powers * np.floor(np.float32(1) / y_scale) / sums).astype(np.int32) + y_zero
    y = saturated(shares, y_zero)
    return y.reshape(x.shape) if flat else np.moveaxis(y, -1, axis)


def _exponentials(scale: float, length: int) -> Array:
    """exp(scale * steps) for -255 to 0 steps, so large that the sum of `length` is finite."""
    shift = max(0.0, float(np.log(_LARGEST / np.float32(length))) - 5.0) / scale
    table: Array = np.exp((np.arange(256.0) - 255 + shift) * scale).astype(np.float32)
    return table


def _by_table(inputs: Inputs, function: Callable[[Array], Array]) -> Array:
    x, x_scale, x_zero, y_scale, y_zero = first(inputs, 5)
    info = np.iinfo(x.dtype)
    every = np.arange(info.min, info.max + 1).astype(x.dtype)
    table = quantize(function(dequantize(every, x_scale, x_zero)), y_scale, y_zero)
    found: Array = table[x.astype(np.int32) - info.min]
    return found
