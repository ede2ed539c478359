"""Two operands and more: QLinearAdd, QLinearMul, QLinearConcat."""

from typing import TypeAlias

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.simulation.arithmetic import dequantize, quantize, saturated, shifted
from qdq.graph.simulation.kernels import KERNELS, MICROSOFT, Attributes, Inputs, first, optional

_Operand: TypeAlias = tuple[Array, Array, Array]  # codes, scale, zero point


@KERNELS.add((MICROSOFT, "QLinearAdd"))
def add(_: Attributes, inputs: Inputs) -> Array | None:
    """Sum of codes: b * (s_b / s_y), then a * (s_a / s_y), added to what the zero points give.

    Each addition is fused with its product, as the kernel for AVX2 does; an operand that is one
    number for many of the other counts as b.
    """
    a, b, y_scale, y_zero = _operands(inputs)
    if y_zero.dtype.itemsize > 1:
        return None
    if _single(a[0], b[0]) == 0:
        a, b = b, a
    (x, x_ratio, x_zero), (z, z_ratio, z_zero) = (
        (codes, scale / y_scale, zero.astype(np.float32)) for codes, scale, zero in (a, b)
    )
    fixed = y_zero.astype(np.float32) - _fused(x_zero, x_ratio, z_ratio * z_zero)
    steps = _fused(x, x_ratio, _fused(z, z_ratio, fixed))
    return saturated(steps, y_zero)


@KERNELS.add((MICROSOFT, "QLinearMul"))
def multiply(_: Attributes, inputs: Inputs) -> Array | None:
    """Product of codes: one product of integers times (s_a * s_b / s_y), plus the zero point."""
    (a, a_scale, a_zero), (b, b_scale, b_zero), y_scale, y_zero = _operands(inputs)
    product = (shifted(a, a_zero) * shifted(b, b_zero)).astype(np.float32)
    steps = product * (a_scale * b_scale / y_scale) + y_zero.astype(np.float32)
    return saturated(steps, y_zero)


@KERNELS.add((MICROSOFT, "QLinearConcat"))
def concatenate(attributes: Attributes, inputs: Inputs) -> Array | None:
    """Codes side by side, each part brought to the grid of the result."""
    y_scale, y_zero, *given = first(inputs, len(inputs))
    parts = []
    for codes, scale, zero in zip(given[::3], given[1::3], given[2::3], strict=True):
        same = scale == y_scale and zero == y_zero
        parts.append(codes if same else quantize(dequantize(codes, scale, zero), y_scale, y_zero))
    return np.concatenate(parts, axis=attributes["axis"])


def _fused(codes: Array, ratio: Array, added: Array) -> Array:
    """Codes * ratio + added, rounded to float32 once: 8 times 24 bits are exact in float64."""
    wide: Array = codes.astype(np.float64) * ratio + added
    return wide.astype(np.float32)


def _single(a: Array, b: Array) -> int | None:
    """Which operand onnxruntime takes as one number for each run of the other, if one of them.

    It looks at the axes that both have, the last first, and takes two lengths of 1 for the first.
    """
    shapes = [each.shape or (1,) for each in (a, b)]
    for lengths in zip(*(reversed(each) for each in shapes), strict=False):
        if lengths != (1, 1):
            return lengths.index(1) if 1 in lengths else None
    return 0


def _operands(inputs: Inputs) -> tuple[_Operand, _Operand, Array, Array]:
    """Both operands, and the grid of the result, whose zero point may be left out."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale = first(inputs, 7)
    y_zero = optional(inputs, 7)
    zero = np.zeros((), a.dtype) if y_zero is None else y_zero
    return (a, a_scale, a_zero), (b, b_scale, b_zero), y_scale, zero
