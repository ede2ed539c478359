"""Folding a BatchNorm in eval mode into the convolution or linear layer before it."""

import torch
from torch import Tensor


def fold(
    weight: Tensor,
    bias: Tensor | None,
    *,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    gamma: Tensor | None,
    beta: Tensor | None,
    channel_axis: int,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that equals layer, then BatchNorm.

    w' = w * g, b' = (b - mean) * g + beta with g = gamma / sqrt(variance + eps) per output channel
    (Jacob et al. 2018, arXiv:1712.05877, eq. 14; Ioffe and Szegedy 2015, arXiv:1502.03167, sec.
    3.1). g and b' are computed in float64, w' at least in float32; returned in the dtype of
    `weight`.

    Args:
        weight: any shape with C entries along `channel_axis`.
        bias: (C,) or None for 0.
        mean: (C,) running mean.
        variance: (C,) running variance, >= 0.
        eps: added to the variance.
        gamma: (C,) or None for 1.
        beta: (C,) or None for 0.
        channel_axis: the axis of `weight` that holds output channels.
    """
    gain = torch.rsqrt(variance.double() + eps)
    if gamma is not None:
        gain = gain * gamma.double()
    shape = [1] * weight.dim()
    shape[channel_axis] = -1
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    folded = shift * gain + (0.0 if beta is None else beta.double())
    scaled = weight * gain.to(torch.promote_types(weight.dtype, torch.float32)).view(shape)
    return scaled.to(weight.dtype), folded.to(weight.dtype)
