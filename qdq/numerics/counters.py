"""Counting the float32 of an array into histograms, and adding histograms up. No torch.

With numba (extra `fast`) in one pass of its own, else by numpy.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qdq.numerics import compiling
from qdq.numerics.histogram import BINS, FRACTION, OCTAVE, SHIFT, Histogram, from_counts, merge

Ints: TypeAlias = NDArray[np.int64]

# Equal neighbours, the zeros behind a ReLU, would wait for each other's store: they take turns.
COUNTERS = 2
BLOCK = 64  # bins that are looked at together when the counters are read: most hold nothing
SHARE = 1 << 19  # elements that pay for a thread of their own
CHUNK = 1 << 14  # elements that stay in the cache between the two looks at them
HALF = BINS // 2  # the bin of -0.0, the first of the negative ones
SIGN = 1 << 31
MOST = 1 << 31  # elements whose number surely fits a uint32 counter


def counted(values: NDArray[np.float32], *, threads: int = 1) -> Histogram:
    """The histogram of an array's values, infinities and NaN among them.

    Args:
        values: (N,) contiguous, not empty.
        threads: at most so many count at a time.

    Returns:
        Its ends are NaN where NaN is among the values; an end that is zero is +0.0.
    """
    bits = values.view(np.int32)
    threads = min(threads, 1 + len(bits) // SHARE)
    if threads == 1 and len(bits) <= MOST:
        return _counted(bits)
    parts = np.array_split(bits, max(threads, -(-len(bits) // MOST)))
    return reduce(merge, _pool(threads, os.getpid()).map(_counted, parts))


class Total:
    """Histograms added up, in memory for no more than the powers of two that occur."""

    def __init__(self) -> None:
        self._first = np.full(BINS // OCTAVE, -1)  # where each octave's counts begin
        self._counts = np.zeros(0, np.int64)
        self._amin, self._amax = np.inf, -np.inf

    def copy(self) -> "Total":
        """One that goes on from here by itself."""
        other = Total()
        other._first, other._counts = self._first.copy(), self._counts.copy()
        other._amin, other._amax = self._amin, self._amax
        return other

    def add(self, hist: Histogram) -> None:
        """Count these values too."""
        add = _add_by_numpy if compiling.numba() is None else compiling.compiled(_add)
        if not add(hist.bins, hist.counts, self._first, self._counts):
            octaves = hist.bins >> FRACTION
            new = np.unique(octaves[self._first[octaves] < 0])
            self._first[new] = len(self._counts) + OCTAVE * np.arange(len(new))
            self._counts = np.append(self._counts, np.zeros(OCTAVE * len(new), np.int64))
            add(hist.bins, hist.counts, self._first, self._counts)
        self._amin, self._amax = min(self._amin, hist.amin), max(self._amax, hist.amax)

    def histogram(self) -> Histogram:
        """Of everything that was added."""
        octaves = np.flatnonzero(self._first >= 0)
        within = np.arange(OCTAVE)
        counts = self._counts[(self._first[octaves][:, None] + within).reshape(-1)]
        bins = (octaves[:, None] * OCTAVE + within).reshape(-1)[counts > 0]
        return Histogram(bins, counts[counts > 0], self._amin, self._amax)


def _add(bins: Ints, counts: Ints, first: Ints, total: Ints) -> bool:
    """Add the counts of bins to `total`, where those of an octave begin at `first`.

    Returns:
        Whether all octaves are there; if not, nothing is added.
    """
    for i in range(len(bins)):
        if first[bins[i] >> FRACTION] < 0:
            return False
    for i in range(len(bins)):
        total[first[bins[i] >> FRACTION] + (bins[i] & (OCTAVE - 1))] += counts[i]
    return True


def _add_by_numpy(bins: Ints, counts: Ints, first: Ints, total: Ints) -> bool:
    """The same."""
    places = first[bins >> FRACTION]
    if (places < 0).any():
        return False
    total[places + (bins & (OCTAVE - 1))] += counts
    return True


class _Scratch(threading.local):
    """Memory of one thread, kept because its pages cost more than the counting of a small tensor.

    Attributes:
        counters: all zero between two calls of the kernel.
    """

    def __init__(self) -> None:
        self.counters = np.zeros((COUNTERS, BINS), np.uint32)
        self.bins = np.empty(BINS, np.int64)
        self.counts = np.empty(BINS, np.int64)


@cache
def _scratch() -> _Scratch:
    return _Scratch()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # a fork has none of its parent's
    return ThreadPoolExecutor(threads)


def _counted(bits: NDArray[np.int32]) -> Histogram:
    if compiling.numba() is None:
        return _counted_by_numpy(bits)
    held = _scratch()
    # One call, so that Ctrl-C finds the counters empty.
    count = compiling.compiled(_count)
    positive, negative, *ends = count(bits, held.counters, held.bins, held.counts)
    bins, counts = (
        np.concatenate([each[positive:HALF], each[negative:]]) for each in (held.bins, held.counts)
    )
    return Histogram(bins, counts, *map(_float_of, ends))


def _counted_by_numpy(bits: NDArray[np.int32]) -> Histogram:
    values = bits.view(np.float32)
    counts = np.bincount(bits.view(np.uint32) >> SHIFT, minlength=BINS).astype(np.int64)
    return from_counts(counts, float(values.min()) + 0.0, float(values.max()) + 0.0)


def _float_of(bits: int) -> float:
    """The float32 of these bits; -0.0 becomes 0.0."""
    return float(np.uint32(bits).view(np.float32)) + 0.0


def _count(
    bits: NDArray[np.int32],
    counters: NDArray[np.uint32],
    bins: Ints,
    counts: Ints,
) -> tuple[int, int, int, int]:
    """Fills (BINS,) bins and counts: positive values end at half of them, negative ones at the end.

    Bits is (N,), counters (COUNTERS, BINS) of zeros, to which they return. Loops are functions of
    their own, or LLVM makes no vectors of the first.

    Returns:
        Where the positive ones begin, where the negative ones do, the bits of the smallest and of
        the largest value.
    """
    even, odd = counters

    def ends(part: NDArray[np.uint32]) -> tuple[np.int32, np.uint32, np.uint32]:
        signed = part.view(np.int32)
        above, most, least = signed[0], part[0], part[0]
        for i in range(len(part)):
            above = max(above, signed[i])
            most, least = max(most, part[i]), min(least, part[i])
        return above, most, least

    def tally(part: NDArray[np.uint32]) -> None:
        for i in range(len(part) // 2):
            even[part[2 * i] >> np.uint32(SHIFT)] += np.uint32(1)
            odd[part[2 * i + 1] >> np.uint32(SHIFT)] += np.uint32(1)
        if len(part) % 2:
            even[part[-1] >> np.uint32(SHIFT)] += np.uint32(1)

    def found(i: int) -> int:
        return int(even[i]) + int(odd[i])

    def take(start: int, stop: int, place: int) -> tuple[int, int]:
        taken, seen = 0, np.uint32(0)
        for i in range(start, stop):
            seen |= even[i] | odd[i]
        if seen == 0:
            return place, taken
        for i in range(stop - 1, start - 1, -1):
            if found(i) > 0:
                place -= 1
                bins[place], counts[place] = i, found(i)
                taken += found(i)
            even[i] = odd[i] = 0
        return place, taken

    # As signed numbers the bits are ordered as positive floats are, above all negative ones; as
    # unsigned ones the negative floats come last, those of large magnitude at the end.
    above, most, least = bits[0], np.uint32(bits[0]), np.uint32(bits[0])
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK].view(np.uint32)
        part_above, part_most, part_least = ends(part)
        above, most, least = max(above, part_above), max(most, part_most), min(least, part_least)
        tally(part)
    # From the largest magnitude down until all but the zeros are there: to look at every counter
    # would take all of them into the cache.
    left = len(bits) - found(0) - found(HALF)
    positive, negative = HALF, BINS
    start = (max(int(above), int(most) - SIGN) >> SHIFT) // BLOCK * BLOCK
    while left > 0:
        positive, taken = take(start, start + BLOCK, positive)
        left -= taken
        negative, taken = take(HALF + start, HALF + start + BLOCK, negative)
        left -= taken
        start -= BLOCK
    positive, _ = take(0, 1, positive)
    negative, _ = take(HALF, HALF + 1, negative)
    highest = int(above) if above >= 0 else int(least)
    return positive, negative, int(most if most >= SIGN else least), highest
