"""Histogram -> amax: percentile, least squared error, least divergence. Pure functions.

Counts and edges come as tensors or as arrays; what is found is a float32 scalar on their device.
"""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.compat.pytorch_quantization.arithmetic import fake_quantize, round_to_e4m3
from qdq.compat.pytorch_quantization.descriptor import NumBits
from qdq.numerics.entropy import divergence as divergences

Given: TypeAlias = Tensor | NDArray[Any] | None
Floats: TypeAlias = NDArray[np.float64]

MSE_BLOCK = 1 << 22  # elements that are quantized at a time
ENTROPY_BLOCK = 1 << 11  # ends that are tried at a time


def percentile_amax(calib_hist: Given, calib_bin_edges: Given, percentile: float) -> Tensor | None:
    """Lower edge of the first bin at which the share of the values reaches `percentile`.

    Args:
        calib_hist: (M,) counts; None gives None.
        calib_bin_edges: (M + 1,) in the unit of x.
        percentile: 0..100.

    Raises:
        ValueError: `percentile` is outside 0..100.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(
            f"Invalid percentile {percentile}. Must be in range 0 <= percentile <= 100."
        )
    if calib_hist is None or calib_bin_edges is None:
        return None
    edges = torch.as_tensor(calib_bin_edges)
    through = np.cumsum(_counts(calib_hist))
    return _float(edges[int(np.searchsorted(through / through[-1], percentile / 100))])


def mse_amax(
    calib_hist: Given,
    calib_bin_edges: Given,
    num_bits: NumBits,
    unsigned: bool,
    stride: int = 1,
    start_bin: int = 128,
) -> Tensor | None:
    """The center of a bin that, as amax, moves the centers of all bins least in the square.

    Args:
        calib_hist: (M,) counts; None gives None.
        calib_bin_edges: (M + 1,) in the unit of x.
        num_bits: width of a code, narrow range; or (4, 3).
        unsigned: codes start at 0.
        stride: every how many bins one is tried.
        start_bin: the first that is tried; with fewer bins, the last.
    """
    if calib_hist is None or calib_bin_edges is None:
        return None
    edges = torch.as_tensor(calib_bin_edges)
    counts = torch.as_tensor(calib_hist).to(edges.device)
    centers = (edges[1:] + edges[:-1]) / 2
    tried = centers[min(start_bin, len(centers) - 1) :: stride]
    occupied = counts > 0  # the others add nothing
    x, weight = centers[occupied], counts[occupied].double()
    errors = []
    block = max(1, MSE_BLOCK // len(x))
    for amax in torch.split(tried[:, None], block):
        rows = x.expand(len(amax), -1)
        if isinstance(num_bits, tuple):
            moved = round_to_e4m3(rows, amax)
        else:
            moved = fake_quantize(rows, amax, num_bits, unsigned, narrow_range=True)
        errors.append((moved - rows).double().square_() @ weight)
    return _float(tried[torch.cat(errors).argmin()])


def entropy_amax(
    calib_hist: Given,
    calib_bin_edges: Given,
    num_bits: NumBits,
    unsigned: bool,
    stride: int = 1,
    start_bin: int = 128,
) -> Tensor | None:
    """The edge at which clipping and quantizing the histogram diverge least from it.

    S. Migacz, 8-bit Inference with TensorRT, GTC 2017. Bin 0 is given the count of bin 1, since
    zeros cost no code; the last of equal minima wins.

    Args:
        calib_hist: (M,) counts; None gives None.
        calib_bin_edges: (M + 1,) in the unit of x.
        num_bits: width of a code.
        unsigned: codes start at 0.
        stride: every how many edges one is tried.
        start_bin: the first that is tried; with fewer bins, the last.

    Raises:
        TypeError: `num_bits` is (4, 3): floats have no equal levels.
    """
    if calib_hist is None or calib_bin_edges is None:
        return None
    if isinstance(num_bits, tuple):
        raise TypeError(
            f"entropy needs a number of bits, got {num_bits}: choose method='mse' or 'percentile'"
        )
    edges = torch.as_tensor(calib_bin_edges)
    counts = _counts(calib_hist)
    if len(counts) > 1:
        counts[0] = counts[1]
    levels = 1 << (num_bits - 1 + int(unsigned))
    ends = np.arange(min(start_bin, len(counts)), len(counts) + 1, stride)
    promising = _promising(counts, ends, levels)
    found = [divergence(counts, end, levels) for end in reversed(promising)]
    return _float(edges[promising[-1 - int(np.argmin(found))]])


def _promising(counts: Floats, ends: NDArray[np.int64], levels: int) -> list[int]:
    """The ends whose divergence may be the least, in order.

    From `levels` on it is known from sums over the whole histogram, for all ends at once, but for
    some 1e-13: enough to decide wrongly between equals.
    """
    few: list[int] = ends[ends < levels].tolist()
    many = ends[ends >= levels]
    if len(many) == 0:
        return few
    parts = np.array_split(many, -(-len(many) // ENTROPY_BLOCK))
    found = np.concatenate([divergences(counts, part, levels) for part in parts])
    return [*few, *many[found <= found.min() + 1e-9].tolist()]


def divergence(counts: Floats, end: int, levels: int) -> float:
    """Kullback-Leibler divergence between a clipped histogram and its quantized form.

    The reference is the counts up to `end`, with all that lies beyond added to the last. The
    candidate shares the counts up to `end` out in `levels` groups of equal width, where each
    occupied bin holds the mean of the occupied bins of its group.

    Args:
        counts: (M,).
        end: 1..M, how many bins are kept.
        levels: of the grid.

    Returns:
        >= 0; infinite where the reference has values in a bin that the candidate leaves empty.
    """
    kept, tail = counts[:end], counts[end:].sum()
    occupied = kept > 0
    if not occupied.any() or (tail > 0 and not occupied[-1]):
        return float("inf")
    group = np.arange(end) * levels // end
    occupants = np.bincount(group, occupied, levels)
    mean = np.bincount(group, kept, levels) / np.maximum(occupants, 1)
    candidate = np.where(occupied, mean[group], 0.0)
    reference = kept.copy()
    reference[-1] += tail
    p = reference[occupied] / reference.sum()
    q = candidate[occupied] / candidate.sum()
    return float(np.sum(p * np.log(p / q)))


def _counts(given: Tensor | NDArray[Any]) -> Floats:
    """A copy in float64, which holds whole numbers up to 2^53."""
    return torch.as_tensor(given).cpu().numpy().astype(np.float64)


def _float(found: Tensor) -> Tensor:
    return found.detach().clone().float()
