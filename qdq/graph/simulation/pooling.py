"""Pools of codes: QLinearAveragePool, QLinearGlobalAveragePool, MaxPool."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.simulation.arithmetic import dequantize, requantize, saturated, shifted
from qdq.graph.simulation.geometry import Sliding, sliding
from qdq.graph.simulation.kernels import KERNELS, MICROSOFT, Attributes, Inputs, first


@KERNELS.add((MICROSOFT, "QLinearGlobalAveragePool"))
def average_all(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Mean over all positions: sums of codes, one multiplier s_x / (s_y * positions)."""
    x, x_scale, x_zero, y_scale, y_zero = first(inputs, 5)
    last = bool(attributes.get("channels_last", 0))
    data = x if last else np.moveaxis(x, 1, -1)
    count = np.float32(math.prod(data.shape[1:-1]))
    axes = tuple(range(1, data.ndim - 1))
    sums = shifted(data, x_zero).sum(axis=axes, keepdims=True, dtype=np.int32)
    y = requantize(sums, x_scale / (y_scale * count), y_zero)
    return y if last else np.moveaxis(y, -1, 1)


@KERNELS.add((MICROSOFT, "QLinearAveragePool"))
def average(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Means over windows: float32 sums of the dequantized codes, one after another.

    One window that is all there is to see is left to the kernel for that.
    """
    x, x_scale, x_zero, y_scale, y_zero = first(inputs, 5)
    last = bool(attributes.get("channels_last", 0))
    data = x if last else np.moveaxis(x, 1, -1)
    way = sliding(attributes, data.shape[1:-1], attributes["kernel_shape"])
    if way is None:
        return None
    if way.kernel == data.shape[1:-1] and not any(map(any, way.pads)):
        return average_all(attributes, inputs)
    sums = _summed(way, dequantize(data, x_scale, x_zero))
    ones = np.ones((1, *data.shape[1:-1], 1), np.float32)
    whole = bool(attributes.get("count_include_pad", 0))
    counts = np.float32(math.prod(way.kernel)) if whole else _summed(way, ones)
    y = saturated(sums / counts / y_scale + y_zero.astype(np.float32), y_zero)
    return y if last else np.moveaxis(y, -1, 1)


@KERNELS.add(("", "MaxPool"))
def largest(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Largest codes of windows, ONNX MaxPool."""
    (x,) = first(inputs, 1)
    y = largest_last(attributes, [np.moveaxis(x, 1, -1)])
    return None if y is None else np.moveaxis(y, -1, 1)


@KERNELS.add((MICROSOFT, "NhwcMaxPool"))
def largest_last(attributes: Attributes, inputs: Inputs) -> Array | None:
    """The same with the channels last."""
    (x,) = first(inputs, 1)
    if x.dtype not in (np.int8, np.uint8):
        return None
    way = sliding(attributes, x.shape[1:-1], attributes["kernel_shape"])
    if way is None:
        return None
    return functools.reduce(np.maximum, _seen(way, x, np.iinfo(x.dtype).min))


def _summed(way: Sliding, x: Array) -> Array:
    return functools.reduce(np.add, _seen(way, x))


def _seen(way: Sliding, x: Array, fill: int = 0) -> Iterator[Array]:
    """Per place in the kernel what all positions see there, (N, *counts, C)."""
    view = way.windows(x, fill)
    for place in itertools.product(*map(range, way.kernel)):
        index: tuple[Any, ...] = (..., *place)
        yield view[index]
