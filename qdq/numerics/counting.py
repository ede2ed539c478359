"""The histogram of one tensor, made where the tensor is.

On the CPU with numba (extra `fast`) by `counters`; else by torch, on any device.
"""

import torch
from torch import Tensor

from qdq.numerics import compiling
from qdq.numerics.counters import counted
from qdq.numerics.histogram import BINS, SHIFT, Histogram, from_counts


def count(x: Tensor) -> Histogram:
    """The histogram of a tensor's values, infinities and NaN among them.

    Args:
        x: not empty; floating, of any shape, strides and device. Rounded to float32.

    Returns:
        Its ends are NaN where x holds NaN; an end that is zero is +0.0.
    """
    values = in_memory_order(x.detach().resolve_neg()).float()
    if values.device.type != "cpu" or compiling.numba() is None:
        return _counted_by_torch(values)
    return counted(values.numpy(), threads=torch.get_num_threads())


def _counted_by_torch(values: Tensor) -> Histogram:
    low, high = (end + 0.0 for end in torch.stack(torch.aminmax(values)).tolist())
    # The sign bit makes int32 negative: the mask puts those bins above the others.
    bins = values.view(torch.int32).bitwise_right_shift(SHIFT).bitwise_and_(BINS - 1)
    return from_counts(torch.bincount(bins, minlength=BINS).cpu().numpy(), low, high)


def in_memory_order(x: Tensor) -> Tensor:
    """(N,): the values of x as they lie in memory, a copy only where there are gaps or overlaps."""
    if not x.is_contiguous() and is_dense(x):
        return x.as_strided((x.numel(),), (1,))
    return x.reshape(-1)


def is_dense(x: Tensor) -> bool:
    """Whether the elements of x fill a stretch of memory, each place once, in whatever order."""
    filled = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride != filled:
            return False
        filled *= size
    return True
