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

    edges, density = _on_the_line(hist)

    def least(tried: Array) -> Array:
        errors = [_error(edges, density, low, high) for low, high in tried.tolist()]
        return tried[np.argmin(errors)]  # type: ignore[no-any-return]

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
    threshold = float(ends[divergence(counts, ends, levels).argmin()] * width)
    return max(min(hist.amin, 0.0), -threshold), min(max(hist.amax, 0.0), threshold)


def divergence(counts: Array, ends: NDArray[np.int64], levels: int) -> Array:
    """KL divergence for each end >= levels, +inf where the candidate lacks the reference's mass.

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
    edges, density = _on_the_line(hist)
    return np.array([_error(edges, density, *ends) for ends in zip(low, high, strict=True)])


def _on_the_line(hist: Histogram) -> tuple[Array, Array]:
    """((E,) ends of bins in ascending order, (E - 1,) values per unit of x between them)."""
    left, right = bin_edges(hist.bins)
    edges = np.unique(np.concatenate([left, right]))
    density = np.zeros(len(edges) - 1)
    density[np.searchsorted(edges, left)] = hist.counts / (right - left)
    return edges, density


def _error(edges: Array, density: Array, low: float, high: float) -> float:
    """`grid_error` of one grid: the integral of the squared error up to each edge, then sums."""
    step = (high - low) / LEVELS

    def rounded(x: Array) -> Array:
        steps = x * (1 / step)
        whole = np.rint(steps)
        steps -= whole
        cubes = steps * steps * steps  # ** 3 takes 50 times as long
        cubes *= 4
        cubes += whole
        cubes *= step**3 / 12
        return cubes

    def clipped(x: Array) -> Array:
        return CLIP_WEIGHT / 3 * (x * x * x)

    first, last = np.searchsorted(edges, (low, high))
    at_low, at_high = rounded(np.array([low, high]))
    below, above = clipped(edges[:first] - low), clipped(edges[last:] - high)
    within = rounded(edges[first:last])
    integral = np.concatenate([at_low + below, within, at_high + above])
    return float(density @ np.diff(integral))
