"""The functions of NVIDIA's CUDA extension, on any device and without gradients."""

import torch
from torch import Tensor

from qdq.compat.pytorch_quantization.arithmetic import fake_quantize, round_to_e4m3
from qdq.compat.pytorch_quantization.checks import check_signs


@torch.no_grad()
def fake_tensor_quant(
    inputs: Tensor,
    amax: Tensor,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Tensor:
    """The values of the codes of x, one range in all.

    Args:
        inputs: any shape, floating point.
        amax: one number >= 0, in the unit of x; up to 2^-24 it counts as zero.
        num_bits: width of a code.
        unsigned: codes start at 0.
        narrow_range: the lowest signed code is left out.

    Returns:
        inputs' shape and type.

    Raises:
        ValueError: a negative amax, or more than one.
        TypeError: a negative value of x where codes are unsigned.
    """
    if amax.numel() != 1:
        raise ValueError(
            f"fake_tensor_quant takes one amax, got the shape {tuple(amax.shape)}: call "
            "fake_tensor_quant_with_axis"
        )
    check_signs(inputs, amax, unsigned)
    return fake_quantize(inputs, amax.reshape(()), num_bits, unsigned, narrow_range)


@torch.no_grad()
def fake_tensor_quant_(
    inputs: Tensor,
    amax: Tensor,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> None:
    """`fake_tensor_quant` that writes into `inputs`."""
    inputs.copy_(fake_tensor_quant(inputs, amax, num_bits, unsigned, narrow_range))


@torch.no_grad()
def fake_tensor_quant_with_axis(
    inputs: Tensor,
    amax: Tensor,
    axis: int,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Tensor:
    """The values of the codes of x, a range per entry of one axis.

    Args:
        inputs: any shape, floating point, C entries along `axis`.
        amax: C numbers >= 0 in any shape.
        axis: the axis that keeps a range per entry.
        num_bits: width of a code.
        unsigned: codes start at 0.
        narrow_range: the lowest signed code is left out.

    Returns:
        inputs' shape and type.

    Raises:
        ValueError: a negative amax, or not one per entry of `axis`.
        TypeError: a negative value of x where codes are unsigned.
    """
    if amax.numel() != inputs.shape[axis]:
        raise ValueError(
            f"axis {axis} of inputs of shape {tuple(inputs.shape)} needs {inputs.shape[axis]} "
            f"amax, got {amax.numel()}"
        )
    check_signs(inputs, amax, unsigned)
    shape = [1] * inputs.dim()
    shape[axis] = -1
    return fake_quantize(inputs, amax.reshape(shape), num_bits, unsigned, narrow_range)


@torch.no_grad()
def fake_e4m3fy(inputs: Tensor) -> Tensor:
    """The nearest eight-bit floats E4M3 of `inputs`, any shape, saturating at +-448."""
    return round_to_e4m3(inputs, None)
