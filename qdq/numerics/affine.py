"""Affine quantization: range -> scale and zero point -> codes and back. Pure functions on tensors.

    x_q  = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)      ONNX QuantizeLinear
    x_fq = (x_q - zero_point) * scale                                      ONNX DequantizeLinear

equal to onnxruntime's operators on every finite value, ties and infinities included. The division
is a division: multiplying by the reciprocal rounds twice and moves ties.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qdq.numerics import kernels
from qdq.spec import QuantSpec

# Below this a quotient x / scale may overflow, and the product of two scales vanish.
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
# Above this the value of an end code may overflow, since its scale was rounded up.
LARGEST_VALUE = torch.finfo(torch.float32).max * (1 - 2.0**-23)
INT32_LOWEST, INT32_HIGHEST = -(2.0**31), 2.0**31 - 128  # the ends that float32 can hold
# Of bias codes: the other half of an int32 accumulator holds 33,000 products of 255 and 127.
_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True, slots=True)
class QParams:
    """A grid laid over the real line. All tensors are () or (C,), float32 and detached.

    Attributes:
        scale: unit of x per step, > 0.
        zero_point: integers: the code of 0.0.
        amin: lower end of the range, unit of x; gradients pass within [amin, amax].
        amax: upper end of the range.
        spec: the integers of the grid and the axis that keeps its scales.
    """

    scale: Tensor
    zero_point: Tensor
    amin: Tensor
    amax: Tensor
    spec: QuantSpec

    def along(self, rank: int) -> "QParams":
        """The same grid, shaped to broadcast against a tensor of `rank` dimensions."""
        axis = self.spec.keep_axis
        if axis is None or self.scale.dim() == 0:
            return self
        shape = [1] * rank
        shape[axis] = -1
        return QParams(
            self.scale.view(shape),
            self.zero_point.view(shape),
            self.amin.view(shape),
            self.amax.view(shape),
            self.spec,
        )


def range_of(x: Tensor, keep_axis: int | None = None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of x, one pair in all or one per entry of `keep_axis`.

    Args:
        x: any shape, not empty.
        keep_axis: axis of x with C entries, or None.

    Returns:
        (amin, amax), each () or (C,), in the unit of x, detached.
    """
    x = x.detach()
    if keep_axis is None:
        low, high = torch.aminmax(x)
    else:
        rows = x.movedim(keep_axis, 0).reshape(x.shape[keep_axis], -1)
        low, high = rows.amin(1), rows.amax(1)  # aminmax along an axis takes 7 times as long
    return low, high


def qparams(amin: Tensor, amax: Tensor, spec: QuantSpec) -> QParams:
    """The one place where a range becomes a scale and a zero point.

    Symmetric: scale = max(|amin|, |amax|) / qmax, zero point 0 (Wu et al. 2020, arXiv:2004.09602,
    sec. 3.1.2; their s is our 1/scale). Affine: the range is widened to hold 0, scale =
    (amax - amin) / (qmax - qmin), zero point = round(qmin - amin / scale) (Jacob et al. 2018,
    arXiv:1712.05877, sec. 2.1). Where the range is zero, or so small that the scale is subnormal,
    the scale is 1 and every value inside has the code of 0. Where it reaches the largest floats,
    the scale is small enough that no code of a finite value dequantizes to infinity.

    Args:
        amin: () or (C,) lower end of the range, unit of x.
        amax: same shape, upper end.
        spec: the grid; `keep_axis` set exactly if the shapes are (C,).
    """
    amin, amax = amin.detach().float(), amax.detach().float()
    if spec.symmetric:
        high = torch.maximum(amin.abs(), amax.abs()) if spec.signed else amax.clamp(min=0)
        low = -high if spec.signed else torch.zeros_like(high)
        scale = _usable(high / spec.qmax).clamp(max=LARGEST_VALUE / spec.qmax)
        return QParams(scale, torch.zeros_like(scale), low, high, spec)
    low, high = amin.clamp(max=0), amax.clamp(min=0)
    steps = spec.qmax - spec.qmin
    scale = _usable(high / steps - low / steps)  # high - low may overflow
    zero_point = torch.round(spec.qmin - low / scale).clamp(spec.qmin, spec.qmax)
    furthest = torch.maximum(zero_point - spec.qmin, spec.qmax - zero_point)
    scale = torch.minimum(scale, LARGEST_VALUE / furthest)
    return QParams(scale, zero_point, low, high, spec)


def at_least(grid: QParams, least: Tensor) -> QParams:
    """The grid with every scale raised to `least`, () or (C,), where it is smaller."""
    return replace(grid, scale=torch.maximum(grid.scale, least.expand_as(grid.scale)))


def least_weight_scale(bias: Tensor, of_input: Tensor) -> Tensor:
    """The smallest s_w at which every entry of a bias fits int32 codes of scale s_x * s_w.

    A channel whose weights have died keeps a bias that its tiny scale could not hold; onnxruntime
    quantizes a float bias too, from the BASIC level on, and the codes would wrap (O25).

    Args:
        bias: (C,).
        of_input: () scale of the activation.
    """
    return bias.detach().abs().float() / of_input / _LARGEST_BIAS


def bias_scale(of_input: Tensor, of_weight: Tensor) -> Tensor:
    """Step of an int32 accumulator: s_x * s_w (Jacob et al. 2018, sec. 2.4); never 0.

    Args:
        of_input: () scale of the activation.
        of_weight: () or (C,) scale of the weight.
    """
    return _usable(of_input * of_weight)


def _usable(scale: Tensor) -> Tensor:
    return torch.where(scale >= SMALLEST_SCALE, scale, 1.0)


def quantize(x: Tensor, grid: QParams) -> Tensor:
    """Codes of x, ONNX QuantizeLinear.

    Args:
        x: any shape, floating point; fp16 and bf16 are computed in fp32.
        grid: with C scales, x has C entries along `grid.spec.keep_axis`.

    Returns:
        int32 of x's shape, within [qmin, qmax]. NaN has no code: the result is undefined there.
    """
    grid = grid.along(x.dim())
    steps = torch.round(_wide(x) / grid.scale)
    low, high = _end_steps(grid)
    return (steps.clamp_(low, high) + grid.zero_point).to(torch.int32)  # type: ignore[arg-type]


def dequantize(x_q: Tensor, grid: QParams) -> Tensor:
    """Values of codes, ONNX DequantizeLinear: (x_q - zero_point) * scale, float32."""
    grid = grid.along(x_q.dim())
    return (x_q.float() - grid.zero_point) * grid.scale


def quantize_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """int32 codes of a bias, zero point 0.

    Args:
        bias: (C,).
        scale: () or (C,), see `bias_scale`.
    """
    steps = torch.round(_wide(bias) / scale)
    return steps.clamp_(INT32_LOWEST, INT32_HIGHEST).to(torch.int32)


def fake_quantize(x: Tensor, grid: QParams) -> Tensor:
    """`dequantize(quantize(x))` in x's own dtype, differentiable.

    Straight-through estimator: the gradient of x is passed on where amin <= x <= amax and is 0
    elsewhere (Bengio et al. 2013, arXiv:1308.3432; cut off as in Jacob et al. 2018, sec. 3).
    Scale and zero point get none.

    Args:
        x: any shape, floating point; fp16 and bf16 are computed in fp32. NaN stays NaN.
        grid: with C scales, x has C entries along `grid.spec.keep_axis`.
    """
    trained = x.requires_grad and torch.is_grad_enabled()
    rounded, inside = _rounded(_wide(x), grid, masked=trained)
    rounded = rounded.to(x.dtype)
    return _StraightThrough.apply(x, rounded, inside) if trained else rounded  # type: ignore[no-untyped-call]


def fake_quantize_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """The values of `quantize_bias`, differentiable: gradients pass straight through.

    Args:
        bias: (C,).
        scale: () or (C,), see `bias_scale`.
    """
    rounded = _round_to_grid(_wide(bias), scale, INT32_LOWEST, INT32_HIGHEST).to(bias.dtype)
    if bias.requires_grad and torch.is_grad_enabled():
        return _StraightThrough.apply(bias, rounded, None)  # type: ignore[no-any-return, no-untyped-call]
    return rounded


class _StraightThrough(torch.autograd.Function):
    """Takes the value of `rounded` and the gradient of `x`, where `inside` says so."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, rounded: Tensor, inside: Tensor | None
    ) -> Tensor:
        """All three of one shape; `inside` is bool, None for everywhere."""
        ctx.save_for_backward(*([] if inside is None else [inside]))
        return rounded

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        """Gradient of x."""
        (grad,), saved = grads, ctx.saved_tensors  # type: ignore[attr-defined]
        return (_times_mask(grad, *saved) if saved else grad), None, None


def _rounded(x: Tensor, grid: QParams, *, masked: bool) -> tuple[Tensor, Tensor | None]:
    """(x float32, on the grid; where gradients pass, if `masked`)."""
    axis = grid.spec.keep_axis if grid.scale.dim() else None
    if kernels.suit(x, axis) and (axis is None or len(grid.scale) == x.shape[axis]):
        ends = (grid.spec.qmin, grid.spec.qmax)
        tensors = (grid.scale, grid.zero_point, grid.amin, grid.amax)
        return kernels.fake_quantize(x, axis, ends, tensors, masked=masked)
    grid = grid.along(x.dim())
    inside, free = _inside(x, grid) if masked else (None, None)
    return _round_to_grid(x, grid.scale, *_end_steps(grid), out=free), inside


def _times_mask(grad: Tensor, inside: Tensor) -> Tensor:
    if kernels.suit(grad) and grad.stride() == inside.stride():
        return kernels.times_mask(grad, inside)
    # A product with bools takes twice as long as one with the same bytes as integers.
    return grad * inside.view(torch.uint8)


def _wide(x: Tensor) -> Tensor:
    """Detached, in float32: compared with an fp16 x, the range would be rounded to fp16."""
    x = x.detach()
    return x if x.dtype == torch.float32 else x.float()


def _round_to_grid(
    x: Tensor,
    scale: Tensor,
    low: Tensor | float,
    high: Tensor | float,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Multiples of `scale`, at least `low` and at most `high` steps; one buffer, in place.

    x is float32, and so is `out`, which is overwritten.
    """
    return torch.div(x, scale, out=out).round_().clamp_(low, high).mul_(scale)  # type: ignore[arg-type]


def _inside(x: Tensor, grid: QParams) -> tuple[Tensor, Tensor | None]:
    """(where amin <= x <= amax, so not where x is NaN: bool; what is free to be overwritten).

    Compared into floats, which then become bools: comparing into bools is not vectorized on the
    CPU and takes twice as long.
    """
    if grid.spec.symmetric and grid.spec.signed:  # amin = -amax
        compared = x.abs().le_(grid.amax)
    elif numbers_are_free(grid.scale):
        compared = x.clamp(grid.amin.item(), grid.amax.item()).eq_(x)
    else:
        return (x >= grid.amin).logical_and_(x <= grid.amax), None
    return compared.bool(), compared


def _end_steps(grid: QParams) -> tuple[Tensor | float, Tensor | float]:
    """Lowest and highest whole number of steps from 0.0.

    As numbers where they are free: on the CPU, clamping to tensors takes as long as all the rest.
    """
    spec = grid.spec
    if spec.symmetric:
        return float(spec.qmin), float(spec.qmax)
    point = grid.zero_point.item() if numbers_are_free(grid.scale) else grid.zero_point
    return spec.qmin - point, spec.qmax - point


def numbers_are_free(tensor: Tensor) -> bool:
    """Whether the tensor holds one number, and reading it makes nobody wait."""
    one = tensor.dim() == 0 and tensor.device.type == "cpu"
    return one and type(tensor) is Tensor and kernels.unwatched()
