"""The squared error of a grid over a histogram, in closed form, and the range that has the least.

A value climbs the grid step by step: its code rises where it passes the middle between two codes,
(k - 1/2) s for the k-th, and each step that it climbs takes 2 s (|x| - (k - 1/2) s) off the squared
error, which is x^2 where no step is climbed. So the error of all values is their sum of squares
less 2 s times the sums of `Tail.distance_beyond` the middles. That is the integral of the squared
rounding sawtooth with as many terms as the grid has steps, however many bins there are.
"""

import numpy as np
from numpy.typing import NDArray

from qdq.numerics.grids import EIGHT_BITS, Grid
from qdq.numerics.histogram import Histogram
from qdq.numerics.tails import Tail, tails_of

Array = NDArray[np.float64]

# A clipped value is wrong for good, a rounded one averages out: 1, 2, 4 and 8 were tried on the
# logits of two ResNets, 2 came out best.
CLIP_WEIGHT = 2.0
# Shares that are tried, as powers of 2: of the largest |x|, down to 1/256 of it; then, in stages,
# of each end so far. From wide to narrow: of equals the first is taken.
_COARSE = 2.0 ** (-np.arange(33) / 4)
_STAGES = tuple(
    2.0 ** (np.arange(most, least - 1, -1) / parts)
    for most, least, parts in ((4, -8, 4), (8, -8, 32), (4, -4, 128))
)
_BLOCK = 1 << 14  # middles that are worked on at a time: they stay in the cache


def grid_error(hist: Histogram, low: Array, high: Array, grid: Grid = EIGHT_BITS) -> Array:
    """Squared error that quantizing the histogram's values by each of K ranges would make.

    Args:
        hist: the values.
        low: (K,) <= 0, unit of x.
        high: (K,) >= 0.
        grid: what the ranges become.

    Returns:
        (K,) sum over all values, in the square of their unit. What lies beyond the values of the
        end codes counts CLIP_WEIGHT times.
    """
    return _error(tails_of(hist), low, high, grid)


def least_error_range(hist: Histogram, grid: Grid) -> tuple[float, float]:
    """The range of least `grid_error`: both ends together, then each in turn, coarse to fine.

    A symmetric grid has one end only: both move together all the way.
    """
    sides = tails_of(hist)
    ends = np.array([min(hist.amin, 0.0), max(hist.amax, 0.0)])

    def least(tried: Array) -> Array:
        tried = np.clip(tried, *ends)
        found: Array = tried[np.argmin(_error(sides, tried[:, 0], tried[:, 1], grid))]
        return found

    best = least(np.abs(ends).max() * _COARSE[:, None] * [-1.0, 1.0])
    moved = [[0, 1]] if grid.symmetric else [[side] for side in (1, 0) if ends[side]]
    for shares in _STAGES:
        for together in moved:
            tried = np.repeat(best[None, :], len(shares), axis=0)
            tried[:, together] *= shares[:, None]
            best = least(tried)
    return float(best[0]), float(best[1])


def _error(sides: tuple[Tail, Tail], low: Array, high: Array, grid: Grid) -> Array:
    scale, below, above = grid.lay(low, high)
    error = np.zeros(len(low))
    rows = max(1, _BLOCK // grid.levels)
    for side, number in zip(sides, (below, above), strict=True):
        for at in range(0, len(low) if side.peak else 0, rows):
            block = slice(at, at + rows)
            error[block] += _side_error(side, scale[block], number[block])
    return error


def _side_error(side: Tail, scale: Array, steps: NDArray[np.int64]) -> Array:
    """(K,) of one side, with `steps` codes beyond 0 at multiples of `scale`, both (K,)."""
    k = np.arange(1, steps.max() + 1)
    middles = (k - 0.5) * scale[:, None]
    middles[k > steps[:, None]] = side.peak  # nothing climbs steps that are not there
    climbed = side.distance_beyond(middles).sum(axis=1)
    clipped = side.square_beyond(steps * scale)
    return side.square[0] - 2 * scale * climbed + (CLIP_WEIGHT - 1) * clipped  # type: ignore[no-any-return]
