"""Ranges of tensors along kept axes, and how they are shown."""

import torch
from torch import Tensor

from qdq.compat.pytorch_quantization.descriptor import Axis


def range_of(x: Tensor, axis: Axis) -> Tensor:
    """Largest |x|: () without `axis`, else one per entry of the kept axes, the others of 1.

    Args:
        x: any shape, not empty, in its unit.
        axis: the axes to keep.
    """
    magnitude = x.abs()
    if axis is None:
        return magnitude.amax()
    kept = {each % x.dim() for each in ([axis] if isinstance(axis, int) else axis)}
    others = tuple(each for each in range(x.dim()) if each not in kept)
    return magnitude.amax(others, keepdim=True) if others else magnitude


def along(amax: Tensor, axis: Axis, rank: int) -> Tensor:
    """A vector of ranges, which user code may set, shaped as `range_of` gives them.

    Args:
        amax: any shape.
        axis: the axes to keep.
        rank: dimensions of what amax is the range of.
    """
    if not isinstance(axis, int) or amax.dim() != 1:
        return amax
    shape = [1] * rank
    shape[axis] = -1
    return amax.view(shape)


def short(amax: Tensor | float) -> str:
    """`2.4590`, or `[0.2838, 0.4360](3)`: lowest and highest of 3."""
    if not isinstance(amax, Tensor):
        return str(amax)
    if amax.numel() == 1:
        return f"{amax.item():.4f}"
    return f"[{torch.min(amax).item():.4f}, {torch.max(amax).item():.4f}]({amax.numel()})"
