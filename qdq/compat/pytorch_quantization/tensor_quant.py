"""Quantization functions with straight-through gradients, and the descriptors.

The functions are the `apply` of the autograd classes: pass their arguments by position. x is
given its gradient where |x| <= amax, ends included; a range gets none.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from qdq.compat.pytorch_quantization.arithmetic import (
    E4M3_LARGEST,
    fake_quantize,
    fake_quantize_affine,
    quantize,
    round_to_e4m3,
    widened,
)
from qdq.compat.pytorch_quantization.checks import check_fits_fp16, check_signs
from qdq.compat.pytorch_quantization.descriptor import (
    E4M3,
    QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QUANT_DESC_8BIT_PER_TENSOR,
    QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR,
    QuantDescriptor,
)
from qdq.compat.pytorch_quantization.symbolic import (
    quantize_dequantize,
    quantize_dequantize_e4m3,
)

ScaledQuantDescriptor = QuantDescriptor
Context: TypeAlias = Any  # torch types neither what a context saves nor what it needs
Gradients: TypeAlias = tuple[Tensor | None, ...]


class TensorQuantFunction(torch.autograd.Function):
    """Codes of x, as whole numbers of x's own floating-point type."""

    @staticmethod
    def forward(
        ctx: Context,
        inputs: Tensor,
        amax: Tensor,
        num_bits: int = 8,
        unsigned: bool = False,
        narrow_range: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Quantize.

        Args:
            ctx: of autograd.
            inputs: any shape, floating point.
            amax: >= 0, broadcasts against `inputs`, in its unit; up to 2^-24 it counts as zero.
            num_bits: width of a code.
            unsigned: codes start at 0.
            narrow_range: the lowest signed code is left out.

        Returns:
            (codes of inputs' shape, codes per unit of x in amax's shape), both of inputs' type.

        Raises:
            ValueError: a negative amax, or a scale that fp16 cannot hold.
            TypeError: a negative value of x where codes are unsigned.
        """
        check_signs(inputs, amax, unsigned)
        _save_inside(ctx, inputs, amax)
        codes, scale = quantize(inputs, amax, num_bits, unsigned, narrow_range)
        if inputs.dtype == torch.float16:
            check_fits_fp16(scale, amax)
        scale = scale.to(inputs.dtype)
        ctx.mark_non_differentiable(scale)
        return codes.to(inputs.dtype), scale

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Gradients:
        """Gradient of `inputs`."""
        return _gradients(ctx, grads[0], 5)


class FakeTensorQuantFunction(torch.autograd.Function):
    """The values of the codes of x."""

    @staticmethod
    def forward(
        ctx: Context,
        inputs: Tensor,
        amax: Tensor,
        num_bits: int = 8,
        unsigned: bool = False,
        narrow_range: bool = True,
    ) -> Tensor:
        """Quantize and dequantize; arguments and errors as of `TensorQuantFunction.forward`.

        Returns:
            inputs' shape and type; never infinite where the range is tiny.
        """
        check_signs(inputs, amax, unsigned)
        _save_inside(ctx, inputs, amax)
        return fake_quantize(inputs, amax, num_bits, unsigned, narrow_range)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Gradients:
        """Gradient of `inputs`."""
        return _gradients(ctx, grads[0], 5)

    @staticmethod
    def symbolic(
        g: Any,
        inputs: Any,
        amax: Any,
        num_bits: int = 8,
        unsigned: bool = False,
        narrow_range: bool = True,
    ) -> Any:
        """QuantizeLinear and DequantizeLinear, for the TorchScript exporter."""
        return quantize_dequantize(g, inputs, amax, num_bits, unsigned, narrow_range)


class LegacyFakeTensorQuantFunction(FakeTensorQuantFunction):
    """The same values under their older name."""


class FakeAffineTensorQuantFunction(torch.autograd.Function):
    """The values of signed codes with a zero point."""

    @staticmethod
    def forward(
        ctx: Context, inputs: Tensor, min_range: Tensor, max_range: Tensor, num_bits: int = 8
    ) -> Tensor:
        """Quantize and dequantize the way gemmlowp does.

        Args:
            ctx: of autograd.
            inputs: any shape, floating point.
            min_range: lower end, in the unit of x, broadcasts against `inputs`.
            max_range: upper end.
            num_bits: width of a code.

        Returns:
            inputs' shape and type.
        """
        low, high = (torch.as_tensor(end, device=inputs.device) for end in (min_range, max_range))
        if ctx.needs_input_grad[0]:
            wide = widened(inputs)
            ctx.save_for_backward((wide >= low) & (wide <= high))
        return fake_quantize_affine(inputs, low, high, num_bits)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Gradients:
        """Gradient of `inputs`: passed on where min_range <= x <= max_range."""
        return _gradients(ctx, grads[0], 4)


class ScaledE4M3Function(torch.autograd.Function):
    """The nearest eight-bit floats, scaled so that amax falls onto their largest, 448."""

    @staticmethod
    def forward(
        ctx: Context,
        inputs: Tensor,
        amax: Tensor | None = None,
        exponent: int = 4,
        mantissa: int = 3,
    ) -> Tensor:
        """Round.

        Args:
            ctx: of autograd.
            inputs: any shape, floating point.
            amax: broadcasts against `inputs`, in its unit; None: nothing is scaled.
            exponent: its bits, 4.
            mantissa: its bits, 3.

        Returns:
            inputs' shape and type.

        Raises:
            NotImplementedError: another format than E4M3.
        """
        if (exponent, mantissa) != E4M3:
            raise NotImplementedError(
                f"E={exponent} and M={mantissa}: of eight-bit floats only E=4, M=3 is known"
            )
        largest = torch.full((), E4M3_LARGEST, device=inputs.device)
        _save_inside(ctx, inputs, largest if amax is None else amax)
        return round_to_e4m3(inputs, amax)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Gradients:
        """Gradient of `inputs`; without an amax, passed on where |x| <= 448."""
        return _gradients(ctx, grads[0], 4)

    @staticmethod
    def symbolic(
        g: Any, inputs: Any, amax: Any = None, exponent: int = 4, mantissa: int = 3
    ) -> Any:
        """TensorRT's own operators for eight-bit floats, for the TorchScript exporter."""
        return quantize_dequantize_e4m3(g, inputs, amax)


tensor_quant = TensorQuantFunction.apply
fake_tensor_quant = FakeTensorQuantFunction.apply
legacy_fake_tensor_quant = LegacyFakeTensorQuantFunction.apply
fake_affine_tensor_quant = FakeAffineTensorQuantFunction.apply
scaled_e4m3 = ScaledE4M3Function.apply


def _save_inside(ctx: Context, inputs: Tensor, amax: Tensor) -> None:
    """Keep where |x| <= amax: compared in the wide type, fp16 would round the range."""
    if ctx.needs_input_grad[0]:
        ctx.save_for_backward(widened(inputs).abs() <= amax.to(inputs.device))


def _gradients(ctx: Context, grad: Tensor, arguments: int) -> Gradients:
    (inside,) = ctx.saved_tensors
    return (grad * inside, *[None] * (arguments - 1))


__all__ = [
    "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
    "QUANT_DESC_8BIT_PER_TENSOR",
    "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
    "FakeAffineTensorQuantFunction",
    "FakeTensorQuantFunction",
    "LegacyFakeTensorQuantFunction",
    "QuantDescriptor",
    "ScaledE4M3Function",
    "ScaledQuantDescriptor",
    "TensorQuantFunction",
    "fake_affine_tensor_quant",
    "fake_tensor_quant",
    "legacy_fake_tensor_quant",
    "scaled_e4m3",
    "tensor_quant",
]
