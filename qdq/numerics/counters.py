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
MAGNITUDE = (1 << 31) - 1  # the bits of an int32 below the sign
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

    def add(self, hist: Histogram) -> None:
        """Count these values too."""
        add = _add_by_numpy if compiling.numba() is None else compiling.compiled(_add)
        if not add(hist.bins, hist.counts, self._first, self._counts):
            octaves = np.unique(hist.bins >> FRACTION)
            new = octaves[self._first[octaves] < 0]
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
    filled, lowest, highest = compiling.compiled(_count)(
        bits, held.counters, held.bins, held.counts
    )
    low, high = (_float_of(key) for key in (lowest, highest))
    return Histogram(held.bins[:filled].copy(), held.counts[:filled].copy(), low, high)


def _counted_by_numpy(bits: NDArray[np.int32]) -> Histogram:
    values = bits.view(np.float32)
    counts = np.bincount(bits.view(np.uint32) >> SHIFT, minlength=BINS).astype(np.int64)
    return from_counts(counts, float(values.min()) + 0.0, float(values.max()) + 0.0)


def _float_of(key: int) -> float:
    """The float32 whose place in the order of all this is, see `_count`; -0.0 becomes 0.0."""
    bits = key ^ MAGNITUDE if key < 0 else key
    return float(np.int32(bits).view(np.float32)) + 0.0


def _count(
    bits: NDArray[np.int32],
    counters: NDArray[np.uint32],
    bins: Ints,
    counts: Ints,
) -> tuple[int, np.int32, np.int32]:
    """Fills bins and counts; gives how many, and the smallest and largest key.

    A key is a float32's bits as an int32, of negative ones all but the sign turned around: keys
    are ordered as the floats are. Bits is (N,), counters (COUNTERS, BINS) of zeros, to which they
    return. Loops are functions of their own, or LLVM makes no vectors of the first.
    """
    even, odd = counters

    def ends(part: NDArray[np.int32]) -> tuple[np.int32, np.int32]:
        lowest, highest = np.int32(MAGNITUDE), np.int32(-MAGNITUDE - 1)
        for i in range(len(part)):
            key = part[i] ^ ((part[i] >> np.int32(31)) & np.int32(MAGNITUDE))
            lowest, highest = min(lowest, key), max(highest, key)
        return lowest, highest

    def tally(part: NDArray[np.uint32]) -> None:
        for i in range(len(part) // 2):
            even[part[2 * i] >> np.uint32(SHIFT)] += np.uint32(1)
            odd[part[2 * i + 1] >> np.uint32(SHIFT)] += np.uint32(1)
        if len(part) % 2:
            even[part[-1] >> np.uint32(SHIFT)] += np.uint32(1)

    def read() -> int:
        filled = 0
        for start in range(0, BINS, BLOCK):
            seen = np.uint32(0)
            for i in range(start, start + BLOCK):
                seen |= even[i] | odd[i]
            if seen == 0:
                continue
            for i in range(start, start + BLOCK):
                found = np.int64(even[i]) + np.int64(odd[i])
                if found > 0:
                    bins[filled], counts[filled] = i, found
                    filled += 1
                even[i] = odd[i] = 0
        return filled

    lowest, highest = np.int32(MAGNITUDE), np.int32(-MAGNITUDE - 1)
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK]
        low, high = ends(part)
        lowest, highest = min(lowest, low), max(highest, high)
        tally(part.view(np.uint32))
    return read(), lowest, highest
