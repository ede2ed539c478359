"""Fake quantization in one pass over memory, where numba is installed (extra `fast`).

torch's operators pass over a tensor seven times and do little each time, so a large one on the CPU
costs what its memory traffic costs. These kernels give the very same bits.
"""

from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.numerics.compiling import compiled, numba

Floats: TypeAlias = NDArray[np.float32]

# Elements. A call takes 20 us, torch's operators hardly longer below; the first takes a second.
SMALLEST = 1 << 15
# torch shares a tensor among its threads, a kernel does not: it wins 2.7 to 1, then 1.4 to 1.
MOST_THREADS = 2


def unwatched() -> bool:
    """Whether nobody follows torch's operators, so that numbers may be read out of tensors.

    A compiler, tracer or exporter does, a dispatch mode, and a function transform such as vmap.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def suit(x: Tensor, axis: int | None = None) -> bool:
    """Whether one pass may and should take the place of torch's operators on x.

    Not where those operators are followed: `unwatched`, a subclass of Tensor, autograd.

    Args:
        x: any tensor.
        axis: the axis that keeps its scales; None: one scale in all.
    """
    if not unwatched() or type(x) is not Tensor or x.requires_grad or x.numel() < SMALLEST:
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or not _dense(x, axis):
        return False
    return torch.get_num_threads() <= MOST_THREADS and numba() is not None


def fake_quantize(
    x: Tensor, axis: int | None, ends: tuple[int, int], grid: tuple[Tensor, ...], *, masked: bool
) -> tuple[Tensor, Tensor | None]:
    """`affine.fake_quantize` without gradients, and where they pass.

    Args:
        x: `suit(x, axis)`.
        axis: the axis of x whose C entries keep a scale each; None: one scale in all.
        ends: lowest and highest code.
        grid: scale, zero point, amin and amax, each (C,), or () without an axis.
        masked: whether the mask is asked for.

    Returns:
        (rounded float32, bool where amin <= x <= amax or None), laid out as x.
    """
    rounded = torch.empty_like(x)
    inside = torch.empty_like(x, dtype=torch.bool) if masked else None
    rows = None if inside is None else _rows(inside, axis)
    columns = torch.stack(grid).view(len(grid), -1).numpy()
    low, high = map(np.float32, ends)
    compiled(_fake_quantize)(_rows(x, axis), low, high, columns, _rows(rounded, axis), rows)
    return rounded, inside


def times_mask(grad: Tensor, inside: Tensor) -> Tensor:
    """`grad * inside`.

    Args:
        grad: `suit(grad)`.
        inside: bool, of the same shape and strides.
    """
    result = torch.empty_like(grad)
    compiled(_times_mask)(_rows(grad)[0, 0], _rows(inside)[0, 0], _rows(result)[0, 0])
    return result


def _dense(x: Tensor, axis: int | None) -> bool:
    """Whether x has no gaps, and the entries of the axis lie in the order of `_rows`."""
    if x.is_contiguous():
        return True
    return axis in (None, 0) and x.is_contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor, axis: int | None = None) -> NDArray[Any]:
    """(outer, C, inner) view of a dense tensor in the order of memory; C entries along the axis."""
    outer, channels = 1, 1
    if axis is not None:
        outer, channels = prod(x.shape[: axis % x.dim()]), x.shape[axis]
    inner = x.numel() // (outer * channels)
    shape, strides = (outer, channels, inner), (channels * inner, inner, 1)
    return x.as_strided(shape, strides).numpy()


def _fake_quantize(
    x: Floats,
    qmin: np.float32,
    qmax: np.float32,
    grid: Floats,
    rounded: Floats,
    inside: NDArray[np.bool_] | None,
) -> None:
    """Tensors are (outer, C, inner), the grid is (4, C). NaN is neither < nor > and stays NaN."""
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            scale, zero_point, amin, amax = grid[:, c]
            low, high = qmin - zero_point, qmax - zero_point
            for j in range(x.shape[2]):
                value = x[i, c, j]
                steps = np.rint(value / scale)
                if steps < low:
                    steps = low
                elif steps > high:
                    steps = high
                rounded[i, c, j] = steps * scale
                if inside is not None:
                    inside[i, c, j] = (value >= amin) & (value <= amax)


def _times_mask(grad: Floats, inside: NDArray[np.bool_], result: Floats) -> None:
    """All are (N,)."""
    for i in range(grad.size):
        result[i] = grad[i] * np.float32(inside[i])
