"""Tails of a histogram: by how much its values lie beyond a point, and by how much squared.

Each side of 0 is a half-line of its own, on which |x| grows. Values are taken to be spread evenly
over their bin. All sums run inwards from the outermost value and have positive terms only, so
that nothing cancels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdq.numerics.histogram import BINS, Histogram, bin_edges, bins_of

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tail:
    """One side of 0, without the zeros; a place is an |x|.

    Attributes:
        edges: (E,) ascending places, the first 0, the last the largest |x|, or the far edge of
            its bin where it is the near one. Bins that touch have an edge each there, so the same
            place may come twice.
        first: number of the bin before the innermost one.
        following: (B,) index of the first edge beyond the places in bin `first` + b. A place
            names its bin by its bits, so that nothing has to be searched.
        density: (E,) values per unit of x between the edge before and this one.
        count: (E,) how many values lie beyond the edge.
        distance: (E,) sum of |x| - edge over them.
        square: (E,) sum of (|x| - edge)^2 over them.
    """

    edges: Array
    first: int
    following: NDArray[np.int64]
    density: Array
    count: Array
    distance: Array
    square: Array

    @property
    def peak(self) -> float:
        """The last edge, 0 where the side is empty."""
        return float(self.edges[-1])

    def distance_beyond(self, places: Array) -> Array:
        """Sum of |x| - place over the values beyond each place, of any shape, >= 0."""
        at, gap = self._next(places)
        found = self.density.take(at)
        found *= gap
        found *= 0.5
        found += self.count.take(at)
        found *= gap
        found += self.distance.take(at)
        return found

    def square_beyond(self, places: Array) -> Array:
        """Sum of (|x| - place)^2 over the values beyond each place, of any shape, >= 0."""
        at, gap = self._next(places)
        further = self.count[at] + self.density[at] * gap / 3
        return self.square[at] + gap * (2 * self.distance[at] + gap * further)

    def _next(self, places: Array) -> tuple[NDArray[np.int64], Array]:
        """(index of the first edge from each place on, how far it is)."""
        places = np.minimum(places, self.peak)
        at = self.following.take(bins_of(places) - self.first, mode="clip")
        return at, self.edges.take(at) - places


def tails_of(hist: Histogram) -> tuple[Tail, Tail]:
    """The values below 0 and those above. Bins of zeros, -0 and what is next to nothing are out."""
    return _tail(hist, negative=True), _tail(hist, negative=False)


def _tail(hist: Histogram, *, negative: bool) -> Tail:
    sign, peak = (BINS // 2, -hist.amin) if negative else (0, hist.amax)
    start, stop = np.searchsorted(hist.bins, (sign + 1, sign + BINS // 2))
    if start == stop:
        nothing = np.zeros(1)
        return Tail(nothing, 0, nothing.astype(np.int64), nothing, nothing, nothing, nothing)
    bins, counts = hist.bins[start:stop] - sign, hist.counts[start:stop]
    low, high = bin_edges(bins)
    if low[-1] < peak:
        high[-1] = peak
    edges = np.zeros(2 * len(low) + 1)
    edges[1::2], edges[2::2] = low, high
    width, density, values = np.diff(edges), np.zeros_like(edges), np.zeros(2 * len(low))
    values[1::2], density[2::2] = counts, counts / (high - low)
    count = _beyond(values)
    distance = _beyond(width * (count[1:] + values / 2))
    square = _beyond(width * (2 * distance[1:] + width * (count[1:] + values / 3)))
    first = int(bins[0]) - 1
    return Tail(edges, first, _following(bins - first), density, count, distance, square)


def _following(bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every bin from 0 to one past the last: its upper edge, or the next lower one if empty."""
    held = np.zeros(bins[-1] + 2, np.int64)
    held[bins] = 1
    following: NDArray[np.int64] = np.minimum(2 * np.cumsum(held) - held + 1, 2 * len(bins))
    return following


def _beyond(steps: Array) -> Array:
    """(E,) sums of the E - 1 steps from each edge outwards."""
    sums = np.zeros(len(steps) + 1)
    sums[:-1] = np.cumsum(steps[::-1])[::-1]
    return sums
