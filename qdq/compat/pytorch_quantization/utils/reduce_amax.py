"""The largest magnitude of a tensor, along axes."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def reduce_amax(
    input: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = True
) -> Tensor:
    """Largest |x|, without gradients. NaN is larger than everything.

    Args:
        input: any shape, not empty, in its unit.
        axis: the axes to reduce; None: all of them.
        keepdims: reduced axes stay, with one entry. A sequence of axes whose result is a single
            number gives it without axes all the same, and so does None.

    Returns:
        The unit and type of `input`.

    Raises:
        ValueError: more axes than `input` has.
    """
    magnitude = input.abs()
    if axis is None:
        return magnitude.amax()
    if isinstance(axis, int):
        return magnitude.amax(dim=axis, keepdim=keepdims)
    if len(axis) > input.dim():
        raise ValueError(
            f"Cannot reduce more axes than the tensor has: axis={tuple(axis)} of "
            f"{input.dim()} dimensions"
        )
    reduced = magnitude.amax(dim=tuple(axis), keepdim=keepdims)
    return reduced.reshape(()) if reduced.numel() == 1 else reduced
