"""Layers with weights: convolutions and products of matrices on codes."""

import math
from collections.abc import Iterator

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.simulation.arithmetic import exact_product, multiplier_of, requantize, shifted
from qdq.graph.simulation.geometry import Sliding, sliding
from qdq.graph.simulation.kernels import KERNELS, MICROSOFT, Attributes, Inputs, first, optional

_MOST_AT_ONCE = 2**25  # elements of windows that are copied, 128 MB as float32


@KERNELS.add(("", "QLinearConv"))
@KERNELS.add((MICROSOFT, "QLinearConv"))
def convolve(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Convolution on codes, ONNX QLinearConv; channels may lie last, as onnxruntime moves them."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = first(inputs, 8)
    bias = optional(inputs, 8)
    last = bool(attributes.get("channels_last", 0))
    data = x if last else np.moveaxis(x, 1, -1)
    way = sliding(attributes, data.shape[1:-1], w.shape[2:])
    if way is None:
        return None
    scale = multiplier_of(x_scale, w_scale, y_scale)
    parts = [
        requantize(sums if bias is None else sums + bias, scale, y_zero)
        for sums in _sums(way, attributes.get("group", 1), data, x_zero, w, w_zero)
    ]
    y = np.concatenate(parts)
    return y if last else np.moveaxis(y, -1, 1)


@KERNELS.add(("", "ConvInteger"))
def convolve_into_sums(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Convolution of codes as int32 sums, ONNX ConvInteger."""
    x, w = first(inputs, 2)
    data = np.moveaxis(x, 1, -1)
    way = sliding(attributes, data.shape[1:-1], w.shape[2:])
    if way is None:
        return None
    zeros = optional(inputs, 2), optional(inputs, 3)
    parts = list(_sums(way, attributes.get("group", 1), data, zeros[0], w, zeros[1]))
    return np.moveaxis(np.concatenate(parts), -1, 1)


def _sums(
    way: Sliding, groups: int, x: Array, x_zero: Array | None, w: Array, w_zero: Array | None
) -> Iterator[Array]:
    """Sums (n, *positions, M) of x (N, *spatial, C), of some images after the other."""
    zero = None if w_zero is None else w_zero.reshape(-1, *[1] * (w.ndim - 1))
    moved = _reordered(shifted(w, zero), groups)
    for images in _batches(x, way):
        yield _convolved(way.windows(shifted(images, x_zero).astype(np.float32)), moved)


def _batches(x: Array, way: Sliding) -> Iterator[Array]:
    """The images in as few parts as keep the copies of their windows small."""
    each = math.prod(way.counts) * math.prod(way.kernel) * x.shape[-1]
    count = max(1, _MOST_AT_ONCE // max(1, each))
    return (x[start : start + count] for start in range(0, len(x), count))


def _reordered(w: Array, groups: int) -> Array:
    """(M, C / groups, *kernel) -> (groups, kernel and C / groups, M / groups)."""
    grouped = np.moveaxis(w.reshape(groups, -1, *w.shape[1:]), 2, -1)
    return grouped.reshape(*grouped.shape[:2], -1).swapaxes(1, 2)


def _convolved(seen: Array, w: Array) -> Array:
    """(N, *positions, C, *kernel) windows and reordered weights -> (N, *positions, M) sums."""
    rank, groups = (seen.ndim - 2) // 2, len(w)
    places, channels = seen.shape[: 1 + rank], seen.shape[1 + rank]
    split = seen.reshape(*places, groups, channels // groups, *seen.shape[2 + rank :])
    split = np.moveaxis(split, (1 + rank, 2 + rank), (0, -1))
    sums = exact_product(split.reshape(groups, math.prod(places), -1), w)
    return np.moveaxis(sums, 0, 1).reshape(*places, -1)


@KERNELS.add(("", "QLinearMatMul"))
def multiply(_: Attributes, inputs: Inputs) -> Array | None:
    """Product of matrices on codes, ONNX QLinearMatMul."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = first(inputs, 8)
    if not _is_known(b, a_scale, b_scale):
        return None
    sums = exact_product(shifted(a, a_zero), shifted(b, b_zero))
    return requantize(sums, multiplier_of(a_scale, b_scale, y_scale), y_zero)


@KERNELS.add(("", "MatMulInteger"))
def multiply_into_sums(_: Attributes, inputs: Inputs) -> Array | None:
    """Product of matrices of codes as int32 sums, ONNX MatMulInteger."""
    a, b = first(inputs, 2)
    a_zero, b_zero = optional(inputs, 2), optional(inputs, 3)
    if b.ndim < 2 or (a_zero is not None and a_zero.size > 1):
        return None
    return exact_product(shifted(a, a_zero), shifted(b, b_zero))


@KERNELS.add((MICROSOFT, "MatMulIntegerToFloat"))
def multiply_into_floats(_: Attributes, inputs: Inputs) -> Array | None:
    """Product of matrices of codes as floats: sums * (s_a * s_b) + bias, in float32."""
    a, b, a_scale, b_scale = first(inputs, 4)
    bias = optional(inputs, 6)
    if not _is_known(b, a_scale, b_scale):
        return None
    sums = exact_product(shifted(a, optional(inputs, 4)), shifted(b, optional(inputs, 5)))
    y: Array = sums.astype(np.float32) * (a_scale * b_scale)
    return y if bias is None else y + bias


def _is_known(b: Array, a_scale: Array, b_scale: Array) -> bool:
    """Whether there is one scale for all of A, and one in all or one per column of B."""
    return a_scale.size == 1 and b.ndim >= 2 and (b_scale.size == 1 or b.ndim == 2)


@KERNELS.add((MICROSOFT, "QGemm"))
def multiply_flat(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Product of two matrices of codes and C; floats where no scale of the result is given."""
    a, a_scale, a_zero, b, b_scale, b_zero = first(inputs, 6)
    bias, y_scale, y_zero = (optional(inputs, index) for index in (6, 7, 8))
    if (y_scale is None) != (y_zero is None):
        return None
    rows = a.T if attributes.get("transA", 0) else a
    columns = b.T if attributes.get("transB", 0) else b
    sums = exact_product(shifted(rows, a_zero), shifted(columns, b_zero))
    sums = sums if bias is None else sums + bias
    scale = np.float32(attributes.get("alpha", 1.0)) * a_scale * b_scale
    if y_scale is None or y_zero is None:
        y: Array = sums.astype(np.float32) * scale
        return y
    return requantize(sums, scale / y_scale, y_zero)
