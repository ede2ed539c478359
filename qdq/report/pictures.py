"""Histogram -> SitePicture: few equal bins out of many, and what each method makes of them."""

import numpy as np
from numpy.typing import NDArray

from qdq.numerics.histogram import BINS, Histogram, bin_edges
from qdq.numerics.thresholds import AUTO, METHODS
from qdq.records.pictures import SitePicture

PICTURE_BINS = 96
Array = NDArray[np.float64]


def picture(
    site: str, hist: Histogram, chosen: str, *, held: tuple[float, float] | None = None
) -> SitePicture:
    """The values of one site in `PICTURE_BINS` equal bins, with the range of every method.

    Within a bin of the histogram the values are taken to be spread evenly. The counts are whole
    numbers and sum to `hist.total`.

    Args:
        site: its name.
        hist: what calibration saw there, not empty.
        chosen: the method whose range the site has.
        held: that range, where it is known: it is not searched again, and `chosen` may be a name
            of the caller's. None: what the method makes of `hist`.

    Raises:
        RegistryError: `held` is None and no method is called `chosen`.
    """

    def ends(method: str) -> tuple[float, float]:
        known = held if method == chosen else None
        first, last = METHODS[method](hist) if known is None else known
        return float(first) + 0.0, float(last) + 0.0  # + 0.0: no minus zero

    drawn = [method for method in METHODS if method != AUTO]
    thresholds = {method: ends(method) for method in dict.fromkeys([*drawn, chosen])}
    low, high = min(hist.amin, 0.0) + 0.0, max(hist.amax, 0.0) + 0.0
    places, through = _cumulative(hist)
    edges = np.linspace(low, high, PICTURE_BINS + 1)
    below = np.rint(_below(edges, places, through))
    below[[0, -1]] = 0, hist.total
    return SitePicture(
        site=site,
        low=low,
        high=high,
        counts=tuple(int(count) for count in np.diff(below)),
        thresholds=thresholds,
        clipped={name: _outside(ends, places, through) for name, ends in thresholds.items()},
        chosen=chosen,
    )


def _cumulative(hist: Histogram) -> tuple[Array, Array]:
    """Both ends of each bin, ascending, and how many values lie up to there.

    Bins are cut at the smallest and the largest value, which are exact; the two around 0 become
    the point 0, so that zeros lie at 0 and nowhere else.
    """
    low, high = (np.clip(edge, hist.amin, hist.amax) for edge in bin_edges(hist.bins))
    around_zero = hist.bins % (BINS // 2) == 0
    low, high = np.where(around_zero, 0.0, low), np.where(around_zero, 0.0, high)
    order = np.lexsort((high, low))
    counts = hist.counts[order]
    upto = np.cumsum(counts).astype(np.float64)
    places = np.stack([low[order], high[order]], axis=1).reshape(-1)
    return places, np.stack([upto - counts, upto], axis=1).reshape(-1)


def _below(points: Array, places: Array, through: Array) -> Array:
    """How many values are smaller than each point."""
    found: Array = np.interp(np.nextafter(points, -np.inf), places, through, left=0.0)
    return found


def _outside(ends: tuple[float, float], places: Array, through: Array) -> float:
    """Share of the values below the first end or above the second."""
    below = _below(np.array(ends[0]), places, through)
    above = through[-1] - np.interp(ends[1], places, through, left=0.0)
    return float((below + above) / through[-1])
