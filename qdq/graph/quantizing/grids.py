"""Ranges and weights as what the ONNX file holds of a site. numpy only.

The arithmetic is that of `qdq.numerics.affine`, in float32 like it, bit for bit.
"""

import numpy as np
from numpy.typing import NDArray

from qdq.errors import GraphError
from qdq.graph.edges import Array
from qdq.graph.lowering import SiteGrid
from qdq.spec import QuantSpec

Floats = NDArray[np.float32]

_LIMITS = np.finfo(np.float32)
_LARGEST_VALUE = np.float32(float(_LIMITS.max) * (1 - 2.0**-23))
_INT32_ENDS = (-(2.0**31), 2.0**31 - 128)  # that float32 can hold
_LARGEST_BIAS = np.float32(2.0**30)


def scale_and_zero_point(low: Array, high: Array, spec: QuantSpec) -> tuple[Floats, Floats]:
    """The grid over a range, as `affine.qparams` lays it.

    Symmetric: scale = max(|low|, |high|) / qmax, zero point 0 (Wu et al. 2020, arXiv:2004.09602,
    sec. 3.1.2). Affine: the range is widened to hold 0, scale = (high - low) / (qmax - qmin), zero
    point = round(qmin - low / scale) (Jacob et al. 2018, arXiv:1712.05877, sec. 2.1). Scale 1 where
    it would be zero or subnormal.

    Args:
        low: () or (C,) lower end of the range, unit of x.
        high: same shape, upper end.
        spec: the integers.

    Returns:
        (scale, zero point), each of that shape, float32; the zero point holds integers.
    """
    low, high = low.astype(np.float32), high.astype(np.float32)
    if spec.symmetric:
        most = np.maximum(np.abs(low), np.abs(high)) if spec.signed else np.maximum(high, 0)
        top = np.float32(spec.qmax)
        scale = np.minimum(_usable(most / top), _LARGEST_VALUE / top)
        return scale, np.zeros_like(scale)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    steps = np.float32(spec.qmax - spec.qmin)
    scale = _usable(high / steps - low / steps)
    zero_point = np.clip(np.rint(np.float32(spec.qmin) - low / scale), spec.qmin, spec.qmax)
    furthest = np.maximum(zero_point - np.float32(spec.qmin), np.float32(spec.qmax) - zero_point)
    return np.minimum(scale, _LARGEST_VALUE / furthest), zero_point


def activation_grid(site: str, amin: float, amax: float, spec: QuantSpec) -> SiteGrid:
    """The grid of a tensor that is quantized when the model runs.

    Raises:
        GraphError: QuantizeLinear has no such codes.
    """
    kind = _code_type(site, spec)
    scale, zero_point = scale_and_zero_point(np.array(amin), np.array(amax), spec)
    return SiteGrid(site, np.asarray(scale), np.asarray(zero_point).astype(kind))


def weight_grid(
    site: str, weight: Array, axis: int | None, spec: QuantSpec, least: Array | None = None
) -> SiteGrid:
    """The codes of a weight, its range by its largest values.

    Args:
        site: its name.
        weight: float32, any shape.
        axis: keeps one scale per entry; None: one scale in all.
        spec: the integers.
        least: () or (C,) what no scale is below; see `least_weight_scale`.

    Raises:
        GraphError: QuantizeLinear has no such codes, or the weight is not finite.
    """
    kind = _code_type(site, spec)
    if not np.isfinite(weight).all():
        raise GraphError("the weight holds NaN or infinity", at=site, fix="export the model anew")
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
    rows = rows.reshape(len(rows), -1)
    scale, zero_point = scale_and_zero_point(rows.min(1), rows.max(1), spec)
    if least is not None:
        scale = np.maximum(scale, least.astype(np.float32))
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    steps = np.rint(weight / scale.reshape(shape)) + zero_point.reshape(shape)
    codes = np.clip(steps, spec.qmin, spec.qmax).astype(kind)
    if axis is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    return SiteGrid(site, scale, zero_point.astype(kind), axis, codes)


def least_weight_scale(bias: Array, of_input: Array, channels: int) -> Floats:
    """The smallest s_w at which every entry of a bias fits int32 codes of scale s_x * s_w (O25).

    Args:
        bias: (C,).
        of_input: () scale of the activation.
        channels: how many scales the weight has; the bias has as many, or so many per group.

    Returns:
        (channels,).
    """
    least = np.abs(bias.astype(np.float32)) / of_input / _LARGEST_BIAS
    return np.asarray(least.reshape(-1, channels).max(0), np.float32)


def bias_grid(
    site: str, bias: Array, of_input: Array, of_weight: Array, *, as_float: bool
) -> SiteGrid:
    """The int32 codes of a bias, of scale s_x * s_w (Jacob et al. 2018, sec. 2.4).

    Args:
        site: its name.
        bias: (C,).
        of_input: () scale of the activation.
        of_weight: (C,) scales of the weight, or those of one group.
        as_float: write the values of the codes.
    """
    scale = _usable(of_input * of_weight)
    scale = np.tile(scale, bias.size // scale.size)
    low, high = np.float32(_INT32_ENDS[0]), np.float32(_INT32_ENDS[1])
    codes = np.clip(np.rint(bias.astype(np.float32) / scale), low, high)
    zero_point = np.zeros(scale.shape, np.int32)
    return SiteGrid(site, scale, zero_point, 0, codes.astype(np.int32), as_float)


def _code_type(site: str, spec: QuantSpec) -> type[np.signedinteger | np.unsignedinteger]:
    if spec.bits > 8:
        raise GraphError(
            f"{spec} has no QuantizeLinear before opset 21", at=site, fix="pass bits=8 or fewer"
        )
    return np.int8 if spec.signed else np.uint8


def _usable(scale: Array) -> Floats:
    return np.where(scale >= _LIMITS.tiny, scale, np.float32(1)).astype(np.float32)
