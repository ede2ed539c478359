"""The Kullback-Leibler divergence of clipped and quantized counts, and the range of the least.

Of a candidate only the sum S and the number N of occupied bins of each group matter, and how much
was clipped: it holds S/N in each of them, so that sum p log q = sum S log(S/N) + tail log(q of the
last bin). A group is told by its first bin and its width, and there are few widths: the terms of
all groups that any candidate can have are worked out first, and a candidate adds up its own.
"""

import numpy as np
from numpy.typing import NDArray

from qdq.numerics.grids import Grid
from qdq.numerics.histogram import Histogram, to_linear

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

LINEAR_BINS = 2048
_BLOCK = 1 << 14  # groups that are added up at a time: they stay in the cache


def least_divergence_range(hist: Histogram, grid: Grid) -> tuple[float, float]:
    """Of `LINEAR_BINS` ends on |x|, as many as there are bins to a code, that of least divergence.

    Args:
        hist: the values; zeros, which any grid holds exactly, are left out.
        grid: a range [low, high] gives |x| <= end as many of its levels + 1 codes as its share of
            high - low: all where values have one sign, half where both sides reach the end.

    Returns:
        (-end, end), cut to what was seen. With no more bins than codes nothing is gained by
        clipping, and it is everything.
    """
    counts, width = to_linear(hist, LINEAR_BINS)
    low, high = min(hist.amin, 0.0), max(hist.amax, 0.0)
    if not counts.any():
        return low, high
    places = np.arange(1, LINEAR_BINS + 1)
    ends = places * width
    span = 2 * ends if grid.symmetric else np.minimum(high, ends) - np.maximum(low, -ends)
    codes = np.rint((grid.levels + 1) * ends / span).astype(np.int64)
    tried = (places >= codes) & (counts > 0)  # an empty last bin cannot hold the tail
    tried[-1] = True
    found = divergence(counts, places[tried], codes[tried])
    end = float(ends[tried][found.argmin()])
    return max(low, -end), min(high, end)


def divergence(counts: Array, ends: Whole, levels: Whole | int) -> Array:
    """Kullback-Leibler divergence of counts from their clipped and quantized form, for each end.

    The reference is the counts up to the end with all that lies beyond added to the last. The
    candidate is the counts up to the end, without that, shared out in `levels` groups of equal
    width, in each of which all occupied bins hold the mean. S. Migacz, 8-bit Inference with
    TensorRT, GTC 2017.

    Args:
        counts: (M,) >= 0, not all 0.
        ends: (K,) within 1..M: how many bins are kept.
        levels: how many groups, one number or (K,).

    Returns:
        (K,) >= 0 up to rounding; +inf where the candidate is empty and the reference is not.
    """
    levels = np.broadcast_to(levels, ends.shape)
    sums, entropy = _running(counts), _running(_xlogx(counts))
    total, kept, last = sums[-1], sums[ends], counts[ends - 1]
    tail = total - kept
    cross = _cross_terms(counts, ends, levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(last > 0, _mean_of_last_group(counts, ends, levels), 0.0)
        cross += np.where(tail > 0, tail * np.log(mean), 0.0)
        reference = entropy[ends] - _xlogx(last) + _xlogx(last + tail)
        found = (reference - cross) / total - np.log(total) + np.log(kept)
    return np.where(np.isfinite(found), found, np.inf)


def _cross_terms(counts: Array, ends: Whole, levels: Whole) -> Array:
    """(K,) sums of S log(S/N) over the groups of each end.

    Group g of an end begins with bin ceil(g * end / levels).
    """
    narrowest, widest = int((ends // levels).min()), int((-(-ends // levels)).max())
    terms = _terms(counts, np.arange(narrowest, widest + 1))
    row, flat = np.int32(terms.shape[1]), terms.reshape(-1)
    steps, shift = ends / levels, 1 - 0.5 / levels  # half a part: no whole number is missed
    group = np.arange(levels.max() + 1.0)
    cross = np.empty(len(ends))
    rows = max(1, _BLOCK // len(group))
    for at in range(0, len(ends), rows):
        part = slice(at, at + rows), None
        edges = (group * steps[part] + shift[part]).astype(np.int32)
        np.minimum(edges, ends[part].astype(np.int32), out=edges)  # past the last group: empty
        first = edges[:, :-1]
        term = edges[:, 1:] - first
        term -= narrowest - 1
        np.maximum(term, 0, out=term)
        term *= row
        term += first
        cross[at : at + rows] = flat.take(term).sum(axis=1)
    return cross


def _terms(counts: Array, widths: Whole) -> Array:
    """(1 + W, M + 1): S log(S/N) of groups by width and first bin; the first row is of no width."""
    first = np.arange(len(counts) + 1)
    beyond = np.minimum(first + widths[:, None], len(counts))
    group, number = (
        through.take(beyond) - through for through in (_running(counts), _running(counts > 0))
    )
    terms = np.zeros((len(widths) + 1, len(first)))
    terms[1:] = _xlogx(group) - group * np.log(np.maximum(number, 1.0))
    return terms


def _mean_of_last_group(counts: Array, ends: Whole, levels: Whole) -> Array:
    """(K,) S/N of the group that holds the last bin kept; NaN where it is empty."""
    group = (ends - 1) * levels // ends
    first = -(-group * ends // levels)
    sums, occupied = _running(counts), _running(counts > 0)
    return (sums[ends] - sums[first]) / (occupied[ends] - occupied[first])  # type: ignore[no-any-return]


def _running(values: NDArray[np.float64 | np.bool_]) -> Array:
    """(M + 1,) sums of the values before each."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _xlogx(x: Array) -> Array:
    logs: Array = np.log(np.where(x > 0, x, 1.0))
    return x * logs
