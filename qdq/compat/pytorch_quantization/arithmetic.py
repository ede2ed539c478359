"""The arithmetic of pytorch_quantization. Pure functions on tensors.

    scale = bound / amax        codes = clamp(round_half_even(x * scale), lowest, bound)

This scale is the reciprocal of ours, and multiplying by it rounds differently from dividing by
the step: models that were tuned with it keep their exact values only on this arithmetic.
fp16, bf16 and integers are computed in fp32, float64 in itself.
"""

import torch
from torch import Tensor

TINY = 2.0**-24  # a range up to here counts as zero
E4M3_LARGEST = 448.0


def quantize(
    x: Tensor, amax: Tensor, num_bits: int, unsigned: bool, narrow_range: bool
) -> tuple[Tensor, Tensor]:
    """Codes of x, and the scale they were taken with.

    Args:
        x: any shape. NaN stays NaN.
        amax: >= 0, broadcasts against x; up to 2^-24 it counts as zero: codes 0, scale 1.
        num_bits: width of a code.
        unsigned: codes start at 0.
        narrow_range: the lowest signed code is left out.

    Returns:
        (whole numbers of x's shape, codes per unit of x in amax's shape), of the computing type.
    """
    wide = widened(x)
    amax = amax.to(wide)
    bound = 2.0 ** (num_bits - 1 + int(unsigned)) - 1
    lowest = 0.0 if unsigned else -bound - int(not narrow_range)
    dead = amax <= TINY
    # A number divided by a tensor would become its reciprocal times the number: one ulp off.
    scale = torch.where(dead, 1.0, torch.full_like(amax, bound) / amax)
    codes = (wide * scale).round_().clamp_(lowest, bound).mul_(~dead)
    return codes, scale


def fake_quantize(
    x: Tensor, amax: Tensor, num_bits: int, unsigned: bool, narrow_range: bool
) -> Tensor:
    """The values of the codes of x, in x's own type. Arguments as of `quantize`."""
    codes, scale = quantize(x, amax, num_bits, unsigned, narrow_range)
    return codes.div_(scale).to(x.dtype)


def fake_quantize_affine(x: Tensor, low: Tensor, high: Tensor, num_bits: int) -> Tensor:
    """The values of signed codes with a zero point, gemmlowp's scheme, in x's own type.

    step = (high - low) / (2^num_bits - 1); the zero point is rounded to a whole code.

    Args:
        x: any shape.
        low: lower end of the range, broadcasts against x.
        high: upper end; where it does not lie above `low` the step is 1.
        num_bits: width of a code.
    """
    wide = widened(x)
    low, high = low.to(wide), high.to(wide)
    least, most = -(2.0 ** (num_bits - 1)), 2.0 ** (num_bits - 1) - 1
    width = high - low
    step = torch.where(width > 0, width / torch.full_like(width, most - least), 1.0)
    zero = torch.round(low / step) - least
    codes = (wide / step).round_().sub_(zero).clamp_(least, most)
    return codes.add_(zero).mul_(step).to(x.dtype)


def round_to_e4m3(x: Tensor, amax: Tensor | None) -> Tensor:
    """The nearest eight-bit floats (4 bits of exponent, 3 of mantissa), saturating at +-448.

    Micikevicius et al. 2022, arXiv:2209.05433, the type that ONNX calls FLOAT8E4M3FN.

    Args:
        x: any shape. NaN stays NaN, and what is smaller than 2^-24 becomes 0.
        amax: the magnitude that goes onto 448, broadcasts against x; None: x is rounded as it is.
    """
    wide = widened(x)
    # Divided as tensors, see `quantize`; a zero amax gives an infinite scale, and so zeros.
    scale = None if amax is None else torch.full_like(amax.to(wide), E4M3_LARGEST) / amax.to(wide)
    scaled = wide if scale is None else wide * scale
    # Not every torch saturates by itself: some give NaN beyond the largest value.
    rounded = scaled.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn).to(wide.dtype)
    values = rounded if scale is None else rounded / scale
    return torch.where(wide.abs() < TINY, 0.0, values).to(x.dtype)


def widened(x: Tensor) -> Tensor:
    """The same values in the type they are computed in."""
    return x if x.dtype == torch.float64 else x.float()
