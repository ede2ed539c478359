"""The histogram whose bins are the top bits of the float32 itself. numpy only.

A float32's sign, exponent and first 8 mantissa bits (its bits >> 15) number the bin: 2^17 bins
that exist before any data does. So nothing grows or is resampled, merging is addition, and the
counts depend on the values alone, never on their order or partition. A bin is at most 1/256 of
its values wide.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHIFT = 15
BINS = 1 << (32 - SHIFT)
FRACTION = 23 - SHIFT  # bits of a bin's number below the exponent
OCTAVE = 1 << FRACTION  # bins of one sign and exponent
_HALF = BINS // 2


@dataclass(frozen=True, eq=False)
class Histogram:
    """Exact counts of one site's values, sparse.

    Attributes:
        bins: (K,) int64 ascending bin numbers that occur; see `bin_edges`.
        counts: (K,) int64 > 0.
        amin: the smallest value seen, exact.
        amax: the largest value seen, exact.
    """

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    amin: float
    amax: float

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())


def from_counts(counts: NDArray[np.int64], amin: float, amax: float) -> Histogram:
    """The histogram of a dense vector of counts.

    Args:
        counts: (BINS,) int64, index = the float32's bits >> 15 as an unsigned number.
        amin: smallest value counted.
        amax: largest value counted.
    """
    bins = np.flatnonzero(counts)
    return Histogram(bins, counts[bins], amin, amax)


def from_values(values: NDArray[np.float32]) -> Histogram:
    """The histogram of finite values of any shape, not empty."""
    counts = np.bincount(bins_of(values).reshape(-1), minlength=BINS).astype(np.int64)
    return from_counts(counts, float(values.min()), float(values.max()))


def merge(first: Histogram, second: Histogram) -> Histogram:
    """The histogram of both sets of values; commutative and associative, exactly."""
    counts = np.zeros(BINS, np.int64)
    counts[first.bins] += first.counts
    counts[second.bins] += second.counts
    # NaN, wherever it stands, stays with numpy's minimum and maximum.
    low, high = np.minimum(first.amin, second.amin), np.maximum(first.amax, second.amax)
    return from_counts(counts, float(low), float(high))


def clamped(hist: Histogram, low: float, high: float) -> Histogram:
    """The histogram of the same values after min(max(x, low), high); infinite ends are allowed."""
    ends = bins_of(np.array([low, high]))
    rank, (lowest, highest) = _rank(hist.bins), _rank(ends)
    # Only what lies at an end or beyond it gets another bin.
    below, above = rank <= lowest, rank >= highest
    more = np.array([hist.counts[below].sum(), hist.counts[above].sum()])
    inside = ~(below | above)
    bins = np.concatenate([hist.bins[inside], ends[more > 0]])
    counts = np.concatenate([hist.counts[inside], more[more > 0]])
    order = np.argsort(bins, kind="stable")
    amin, amax = (min(max(end, low), high) for end in (hist.amin, hist.amax))
    return Histogram(bins[order], counts[order], amin, amax)


def _rank(bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bin numbers in the order of their values, below 0 for negative ones; its own inverse."""
    return np.where((bins >= 0) & (bins < _HALF), bins, _HALF - 1 - bins)


def not_finite(hist: Histogram) -> int:
    """How many of its values are infinite or NaN."""
    return int(hist.counts[(hist.bins & (_HALF - 1)) >= _HALF - OCTAVE].sum())


def bins_of(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Number of each value's bin; same shape. float64 is rounded to float32."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return (bits >> SHIFT).astype(np.int64)


def bin_edges(bins: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest end of each bin on the real line.

    Args:
        bins: (K,) bin numbers; the upper half of them holds the negative values.

    Returns:
        (low, high), each (K,) with low < high; the bin holds one end and not the other.
    """
    near = ((bins % _HALF) << SHIFT).astype(np.uint32)
    far = (((bins % _HALF) + 1) << SHIFT).astype(np.uint32)
    inner = near.view(np.float32).astype(np.float64)
    outer = np.minimum(far.view(np.float32).astype(np.float64), np.finfo(np.float32).max)
    negative = bins >= _HALF
    return np.where(negative, -outer, inner), np.where(negative, -inner, outer)


def upper_tail(hist: Histogram, share: float) -> float:
    """The value that at most `share` of all values exceed; never negative.

    Interpolated inside its bin as if its values were spread evenly, and never past `amax`.

    Args:
        hist: not empty.
        share: of all values, 0..1; 0 gives amax.
    """
    positive = hist.bins < _HALF
    bins, counts = hist.bins[positive], hist.counts[positive]
    return _tail(bins, counts, share * hist.total, max(hist.amax, 0.0))


def lower_tail(hist: Histogram, share: float) -> float:
    """The value that at most `share` of all values lie below; never positive."""
    negative = hist.bins >= _HALF
    bins, counts = hist.bins[negative] - _HALF, hist.counts[negative]
    return 0.0 - _tail(bins, counts, share * hist.total, max(-hist.amin, 0.0))


def to_linear(hist: Histogram, bins: int) -> tuple[NDArray[np.float64], float]:
    """Counts of |x|, without zeros, in equal bins from 0 to the largest |x|.

    A bin of ours that a new edge cuts is shared out as if its values were spread evenly.

    Args:
        hist: not empty.
        bins: how many.

    Returns:
        ((bins,) counts, width of one bin in the unit of x).
    """
    magnitude = hist.bins % _HALF
    order = np.argsort(magnitude, kind="stable")
    magnitude, counts = magnitude[order], np.where(magnitude[order] == 0, 0, hist.counts[order])
    peak = max(abs(hist.amin), abs(hist.amax))
    low, high = bin_edges(magnitude)
    through = np.cumsum(counts)
    places = np.stack([low, np.minimum(high, peak)], axis=1).reshape(-1)
    shares = np.stack([through - counts, through], axis=1).reshape(-1)
    edges = np.linspace(0.0, peak, bins + 1)
    return np.diff(np.interp(edges, places, shares)), peak / bins


def _tail(bins: NDArray[np.int64], counts: NDArray[np.int64], allowed: float, end: float) -> float:
    """Where, coming from `end` towards 0, `allowed` values have been left behind."""
    if len(bins) == 0:
        return 0.0
    beyond = np.cumsum(counts[::-1])[::-1]  # values in this bin and further out
    inside = np.flatnonzero(beyond > allowed)
    if len(inside) == 0:
        return 0.0
    index = inside[-1]
    low, high = (float(edge[0]) for edge in bin_edges(bins[index : index + 1]))
    rest = allowed - float(beyond[index] - counts[index])
    return min(high - (high - low) * rest / float(counts[index]), end)
