"""Range methods: histogram -> (amin, amax), the range a quantizer will hold. Pure; numpy only.

A method is added here, by decorator, and is then known to calibrate() and to recipes.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from qdq.numerics.entropy import least_divergence_range
from qdq.numerics.grids import EIGHT_BITS, Grid
from qdq.numerics.histogram import Histogram, bin_edges, lower_tail, upper_tail
from qdq.numerics.squared_error import grid_error, least_error_range
from qdq.numerics.tails import tails_of
from qdq.registry import Registry

Range: TypeAlias = tuple[float, float]


class Method(Protocol):
    """What `METHODS` holds: a function of a histogram that is not empty, and of a grid."""

    def __call__(self, hist: Histogram, grid: Grid = EIGHT_BITS, /) -> Range:
        """(amin, amax), unit of x, within what was seen and 0."""


METHODS: Registry[str, Method] = Registry("calibration method")

AUTO = "auto"
TAIL = 1e-5  # share of the values that each tail may lose under "percentile": 0.001 %
COVERED = 0.9999  # share of the values that the interval of "coverage" holds


@dataclass(frozen=True, slots=True)
class Choice:
    """The range of one site and how it came about.

    Attributes:
        amin: lower end, unit of x.
        amax: upper end.
        method: the method whose range it is; never "auto".
        why: one short sentence for the report.
    """

    amin: float
    amax: float
    method: str
    why: str


def choose(hist: Histogram, method: str, *, levels: int = 255, symmetric: bool = False) -> Choice:
    """The range of one site by one method, or by the one that suits it best.

    Args:
        hist: what the site saw, not empty.
        method: a name in `METHODS`.
        levels: steps of the grid that the range is for, 2**bits - 1.
        symmetric: whether the grid's zero point is 0 whatever the values; a range that several
            targets share is better chosen for the affine grid.

    Raises:
        RegistryError: no such method.
        SpecError: fewer than 2 levels.
    """
    pick, grid = METHODS[method], Grid(levels, symmetric)
    if method == AUTO:
        return _least_loss(hist, grid)
    amin, amax = pick(hist, grid)
    return Choice(amin, amax, method, f"{method} clips {_clipped(hist, amin, amax)}")


@METHODS.add("max")
def full_range(hist: Histogram, grid: Grid = EIGHT_BITS) -> Range:
    """Everything that was seen (Wu et al. 2020, arXiv:2004.09602, sec. 3.3, "Max")."""
    return hist.amin, hist.amax


@METHODS.add("percentile")
def percentile_range(hist: Histogram, grid: Grid = EIGHT_BITS) -> Range:
    """All but 0.001 % of the values on each side of 0 (ibid., "Percentile", at 99.999 %)."""
    return lower_tail(hist, TAIL), upper_tail(hist, TAIL)


@METHODS.add("coverage")
def coverage_range(hist: Histogram, grid: Grid = EIGHT_BITS) -> Range:
    """The narrowest interval of whole bins that holds 99.99 % of the values, and 0 as any grid.

    The two tails need not lose the same share: the shortest interval of given content (the
    highest-density region of Hyndman 1996, The American Statistician 50(2)), widened to hold 0.
    """
    low, high = bin_edges(hist.bins)
    order = np.argsort(low)
    low, high, counts = low[order], high[order], hist.counts[order]
    through = np.concatenate([[0], np.cumsum(counts)])
    last = np.searchsorted(through, through[:-1] + COVERED * hist.total, side="left") - 1
    holds = last < len(counts)
    last = np.minimum(last, len(counts) - 1)
    width = np.maximum(high[last], 0.0) - np.minimum(low, 0.0)
    best = int(np.argmin(np.where(holds, width, np.inf)))
    return max(float(low[best]), hist.amin), min(float(high[last[best]]), hist.amax)


@METHODS.add("mse")
def mse_range(hist: Histogram, grid: Grid = EIGHT_BITS) -> Range:
    """Least mean squared error of the grid, clipping counted twice; see `squared_error`.

    The criterion is OMSE's (Choukroun et al. 2019, arXiv:1902.06822), with the clipped part
    weighted.
    """
    return least_error_range(hist, grid)


@METHODS.add("entropy")
def entropy_range(hist: Histogram, grid: Grid = EIGHT_BITS) -> Range:
    """Least Kullback-Leibler divergence between the clipped |x| and its quantized form.

    S. Migacz, 8-bit Inference with TensorRT, GTC 2017; see `entropy`.
    """
    return least_divergence_range(hist, grid)


@METHODS.add(AUTO)
def least_loss_range(hist: Histogram, grid: Grid = EIGHT_BITS) -> Range:
    """Of the ranges of all other methods, the one that makes the least squared error.

    Clipping is counted twice, as by "mse": the search of that one ends near the least error of
    all ranges, and where another method has found a better one by other means, it is taken. Of
    equals, the first.
    """
    choice = _least_loss(hist, grid)
    return choice.amin, choice.amax


def _least_loss(hist: Histogram, grid: Grid) -> Choice:
    names = [name for name in METHODS if name != AUTO]
    ranges = np.array([METHODS[name](hist, grid) for name in names])
    low, high = np.minimum(ranges[:, 0], 0.0), np.maximum(ranges[:, 1], 0.0)
    error = grid_error(hist, low, high, grid)
    ranking = np.argsort(error, kind="stable")
    best = int(ranking[0])
    amin, amax = ranges[best].tolist()
    signal = sum(float(tail.square[0]) for tail in tails_of(hist))
    if signal == 0.0:
        return Choice(amin, amax, names[best], "auto: nothing but zeros was seen")
    decibels = 10 * np.log10(signal / error)
    found = [f"{names[index]} {decibels[index]:.1f}" for index in ranking]
    why = f"auto: {names[best]} loses least: {decibels[best]:.1f} dB, {', '.join(found[1:])}"
    return Choice(amin, amax, names[best], why)


def _clipped(hist: Histogram, amin: float, amax: float) -> str:
    """How many of the values lie outside, for people."""
    low, high = bin_edges(hist.bins)
    floor, ceiling = min(amin, 0.0), max(amax, 0.0)
    outside = np.zeros(len(low))  # share of each bin
    if floor > hist.amin:
        outside += np.clip((floor - low) / (high - low), 0.0, 1.0)
    if ceiling < hist.amax:
        outside += np.clip((high - ceiling) / (high - low), 0.0, 1.0)
    share = 100 * float(outside @ hist.counts) / hist.total
    if share == 0.0:
        return "nothing"
    return ("less than 0.001" if share < 1e-3 else f"{share:.3g}") + " % of the values"
