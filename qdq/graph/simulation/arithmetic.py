"""The arithmetic of onnxruntime's integer kernels: into codes, out of them, exact sums. numpy.

    codes    x_q = clamp(round_half_even(x / scale) + zero_point)       float32 throughout
    sums     acc = sum (x_q - x_zero)(w_q - w_zero) + bias              int32, wrapping
    codes    y_q = clamp(round_half_even(float32(acc) * multiplier) + y_zero)

rounded where onnxruntime's MLAS library rounds, and nowhere else.
"""

import numpy as np

from qdq.graph.edges import Array

_LARGEST_CODE = 255  # of |x_q - x_zero|, 8 bits
_EXACT_IN_FLOAT32 = 2**24
_FITS_IN_INT32 = 2.0**31


def quantize(x: Array, scale: Array, zero_point: Array) -> Array:
    """Codes of floats, ONNX QuantizeLinear.

    Args:
        x: any shape, float32.
        scale: float32, broadcasts against x.
        zero_point: integers, broadcasts against x; its type is that of the codes.
    """
    return _into_codes(x / scale, zero_point)


def dequantize(codes: Array, scale: Array, zero_point: Array) -> Array:
    """Floats of codes, ONNX DequantizeLinear: float32(x_q - zero_point) * scale."""
    steps = codes.astype(np.int32) - zero_point.astype(np.int32)
    floats: Array = steps.astype(np.float32) * scale
    return floats


def requantize(sums: Array, multiplier: Array, zero_point: Array) -> Array:
    """Codes of int32 sums: one product in float32, then as QuantizeLinear.

    Args:
        sums: int32, any shape.
        multiplier: float32, () or one per entry of the last axis.
        zero_point: (), of the codes.
    """
    return _into_codes(sums.astype(np.float32) * multiplier, zero_point)


def multiplier_of(of_input: Array, of_weight: Array, of_output: Array) -> Array:
    """What sums are multiplied by, (s_x * s_w) / s_y, each operation rounded to float32."""
    product: Array = of_input * of_weight / of_output
    return product


def _into_codes(steps: Array, zero_point: Array) -> Array:
    """Clamp first, as the kernels do: what is far outside would not fit an int32.

    What is no number becomes the smallest code.
    """
    info, zero = np.iinfo(zero_point.dtype), zero_point.astype(np.float32)
    above = np.fmax(steps, np.float32(info.min) - zero)
    clamped = np.fmin(above, np.float32(info.max) - zero)
    codes: Array = (np.rint(clamped) + zero).astype(zero_point.dtype)
    return codes


def saturated(steps: Array, zero_point: Array) -> Array:
    """Steps that the zero point is in, rounded and cut to what its type can hold.

    They are an int32 on the way: x86 makes the smallest of what fits none, and of NaN.
    """
    info = np.iinfo(zero_point.dtype)
    whole = np.where(np.abs(steps) < _FITS_IN_INT32, np.rint(steps), info.min)
    codes: Array = np.clip(whole, info.min, info.max).astype(zero_point.dtype)
    return codes


def shifted(codes: Array, zero_point: Array | None) -> Array:
    """x_q - zero_point as int32; a zero point that is left out is 0."""
    wide: Array = codes.astype(np.int32)
    return wide if zero_point is None else wide - zero_point.astype(np.int32)


def exact_product(rows: Array, columns: Array) -> Array:
    """Sums of products of integers as int32, which wraps where they do not fit.

    The product is BLAS's in floats, which is exact while no sum can reach 2^24 (2^53).

    Args:
        rows: (..., M, K) integers, at most 255 from 0.
        columns: (..., K, N) integers.
    """
    reach = np.abs(columns).sum(axis=-2, dtype=np.int64).max(initial=0) * _LARGEST_CODE
    wide = np.float32 if reach < _EXACT_IN_FLOAT32 else np.float64
    sums = np.matmul(rows.astype(wide, copy=False), columns.astype(wide))
    exact: Array = (
        sums.astype(np.int32) if reach < 2**31 else sums.astype(np.int64).astype(np.int32)
    )
    return exact
