"""Range methods: histogram -> (amin, amax), the range a quantizer will hold. Pure; numpy only.

A method is added here, by decorator, and is then known to calibrate() and to recipes.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qdq.numerics.histogram import Histogram, bin_edges, lower_tail, to_linear, upper_tail
from qdq.registry import Registry

Method: TypeAlias = Callable[[Histogram], tuple[float, float]]
Array: TypeAlias = NDArray[np.float64]
METHODS: Registry[str, Method] = Registry("calibration method")

TAIL = 1e-5  # share of the values that each tail may lose under "percentile": 0.001 %
COVERED = 0.9999  # share of the values that the interval of "coverage" holds
LEVELS = 255  # steps of the 8-bit grid that "mse" and "entropy" choose for
# A clipped value is wrong for good, a rounded one averages out: 1, 2, 4 and 8 were tried on the
# logits of two ResNets, 2 came out best.
CLIP_WEIGHT = 2.0
LINEAR_BINS = 2048


@METHODS.add("max")
def full_range(hist: Histogram) -> tuple[float, float]:
    """Everything that was seen (Wu et al. 2020, arXiv:2004.09602, sec. 3.3, "Max")."""
    return hist.amin, hist.amax


@METHODS.add("percentile")
def percentile_range(hist: Histogram) -> tuple[float, float]:
    """All but 0.001 % of the values on each side of 0 (ibid., "Percentile", at 99.999 %)."""
    return lower_tail(hist, TAIL), upper_tail(hist, TAIL)


@METHODS.add("coverage")
def coverage_range(hist: Histogram) -> tuple[float, float]:
    """The narrowest interval of whole bins that holds 99.99 % of the values."""
    low, high = bin_edges(hist.bins)
    order = np.argsort(low)
    low, high, counts = low[order], high[order], hist.counts[order]
    through = np.concatenate([[0], np.cumsum(counts)])
    first = np.arange(len(counts))
    last = np.searchsorted(through, through[first] + COVERED * hist.total, side="left") - 1
    holds = last < len(counts)
    width = np.where(holds, high[np.minimum(last, len(counts) - 1)] - low, np.inf)
    best = int(np.argmin(width))
    return max(float(low[best]), hist.amin), min(float(high[last[best]]), hist.amax)


@METHODS.add("mse")
def mse_range(hist: Histogram) -> tuple[float, float]:
    """Least mean squared error of an 8-bit grid with a zero point, clipping counted twice.

    Both ends together, then each in turn, from coarse to fine, with the error integrated over
    each bin as if its values were spread evenly (see `grid_error`). The criterion is OMSE's
    (Choukroun et al. 2019, arXiv:1902.06822), with the clipped part weighted.
    """
    ends = np.array([min(hist.amin, 0.0), max(hist.amax, 0.0)])
    peak = float(np.abs(ends).max())
    if peak == 0.0:
        return 0.0, 0.0

    def least(tried: Array) -> Array:
        return tried[np.argmin(grid_error(hist, tried[:, 0], tried[:, 1]))]  # type: ignore[no-any-return]

    best = least(np.clip(peak * _COARSE[:, None] * [-1.0, 1.0], *ends))
    for side in [side for side in (1, 0) if ends[side]] * 2:
        tried = np.repeat(best[None, :], len(_FINE), axis=0)
        tried[:, side] = np.clip(best[side] * _FINE, *ends)
        best = least(tried)
    return float(best[0]), float(best[1])


# Shares that are tried: of the largest |x|, down to 1/256 of it; then of each end so far.
_COARSE = 2.0 ** (-np.arange(33) / 4)
_FINE = np.concatenate([2.0 ** (-np.arange(8, 1, -1) / 4), 2.0 ** (np.arange(-8, 9) / 32)])


@METHODS.add("entropy")
def entropy_range(hist: Histogram) -> tuple[float, float]:
    """Least Kullback-Leibler divergence between the clipped |x| and its 8-bit form.

    S. Migacz, 8-bit Inference with TensorRT, GTC 2017: the histogram of |x| in 2,048 bins; for
    each end, the counts up to it with the tail added to the last, against the same counts without
    the tail, averaged in as many groups as the grid has codes. Zeros, which any grid holds
    exactly, are left out. All ends at once, from sums over the histogram.
    """
    counts, width = to_linear(hist, LINEAR_BINS)
    levels = 256 if hist.amin >= 0 else 128
    if not counts.any():
        return hist.amin, hist.amax
    ends = np.arange(levels, LINEAR_BINS + 1)
    threshold = float(ends[_divergence(counts, ends, levels).argmin()] * width)
    return max(min(hist.amin, 0.0), -threshold), min(max(hist.amax, 0.0), threshold)


def _divergence(counts: Array, ends: NDArray[np.int64], levels: int) -> Array:
    """KL divergence for each end, +inf where the reference has mass that the candidate has not.

    With S and N the sum and the number of occupied bins of each group, the candidate holds S/N
    in every occupied bin, so that sum p log q = sum S log(S/N) + tail log(q of the last bin).
    """
    sums, occupied, entropy = (
        np.concatenate([[0.0], np.cumsum(each)]) for each in (counts, counts > 0, _xlogx(counts))
    )
    edges = np.ceil(np.arange(levels + 1)[None, :] * ends[:, None] / levels).astype(np.int64)
    group = np.diff(sums[edges], axis=1)
    number = np.maximum(np.diff(occupied[edges], axis=1), 1)
    total, kept, last = sums[-1], sums[ends], counts[ends - 1]
    tail = total - kept
    candidate_last = np.where(last > 0, group[:, -1] / number[:, -1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = (_xlogx(group) - group * np.log(number)).sum(axis=1)
        cross += np.where(tail > 0, tail * np.log(candidate_last), 0.0)
        reference = entropy[ends] - _xlogx(last) + _xlogx(last + tail)
        found = (reference - cross) / total - np.log(total) + np.log(kept)
    return np.where(np.isfinite(found), found, np.inf)


def _xlogx(x: Array) -> Array:
    logs: Array = np.log(np.where(x > 0, x, 1.0))
    return x * logs


def grid_error(hist: Histogram, low: Array, high: Array) -> Array:
    """Squared error that quantizing the histogram's values to each of K grids would make.

    A grid has `LEVELS` steps from low to high and 0 on it. Within a bin the squared rounding
    error, a sawtooth, integrates to s^3 (G(b/s) - G(a/s)) with G(u) = rint(u)/12 +
    (u - rint(u))^3/3; beyond the ends the squared distance to the end, to a cubic.

    Args:
        hist: the values.
        low: (K,) <= 0.
        high: (K,) >= 0, greater than `low`.

    Returns:
        (K,) sum over all values, in the square of their unit, the clipped part times CLIP_WEIGHT.
    """
    left, right = bin_edges(hist.bins)
    density = hist.counts / (right - left)
    low, high = low[:, None], high[:, None]
    step = (high - low) / LEVELS

    def primitive(ends: Array) -> Array:
        steps = np.clip(ends, low, high) / step
        whole = np.rint(steps)
        return whole / 12 + (steps - whole) ** 3 / 3

    rounded = step**3 * (primitive(right) - primitive(left))
    above = np.maximum(right - high, 0) ** 3 - np.maximum(left - high, 0) ** 3
    below = np.maximum(low - left, 0) ** 3 - np.maximum(low - right, 0) ** 3
    clipped = CLIP_WEIGHT / 3 * (above + below)
    total: Array = ((rounded + clipped) * density).sum(axis=1)
    return total
