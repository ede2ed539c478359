"""The closed form against fake quantization of the values themselves, one range after another."""

from itertools import product

import numpy as np
import pytest
from range_samples import KINDS, sample, squared_error

from qdq.numerics.grids import Grid
from qdq.numerics.histogram import bin_edges, from_values
from qdq.numerics.squared_error import grid_error, least_error_range


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (-1.0, 3.0), (0.0, 2.5), (-0.2, 0.05)])
@pytest.mark.parametrize("kind", ["normal", "relu", "lopsided"])
def test_the_error_of_a_grid_is_that_of_values_spread_over_their_bins(
    kind: str, low: float, high: float, symmetric: bool, bits: int
) -> None:
    hist = from_values(sample(100, kind))
    left, right = (np.clip(edge, hist.amin, hist.amax) for edge in bin_edges(hist.bins))
    places = (np.arange(300) + 0.5) / 300
    spread = (left[:, None] + (right - left)[:, None] * places).astype(np.float32)
    spread = np.repeat(spread, hist.counts, axis=0)
    expected = squared_error(spread.reshape(-1), low, high, bits=bits, symmetric=symmetric) / 300
    grid = Grid(2**bits - 1, symmetric)
    (error,) = grid_error(hist, np.array([low]), np.array([high]), grid)
    assert error == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("bits", [12, 16])
def test_the_error_of_a_fine_grid_is_that_of_the_values(bits: int) -> None:
    values = sample(30_000, "normal")
    (error,) = grid_error(from_values(values), *np.array([[-5.0], [5.0]]), Grid(2**bits - 1))
    assert error == pytest.approx(squared_error(values, -5.0, 5.0, bits=bits), rel=0.01)


def test_the_errors_of_many_ranges_are_those_of_each_alone() -> None:
    hist = from_values(sample(2000, "laplace"))
    low, high = -np.linspace(0.01, 9, 150), np.linspace(0.01, 20, 150)
    together = grid_error(hist, low, high)
    alone = [grid_error(hist, *ends[:, None]).item() for ends in np.stack([low, high], axis=1)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "bits"), [*product(KINDS, [8]), ("normal", 4), ("relu", 4), ("outlier", 4)]
)
def test_no_range_of_a_dense_search_is_two_percent_better(kind: str, bits: int) -> None:
    values = sample(4000, kind)
    grid = Grid(2**bits - 1)
    low, high = least_error_range(from_values(values), grid)
    floor, ceiling = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.concatenate([np.linspace(0.02, 0.3, 10), np.linspace(0.34, 1, 20)])
    best = min(
        squared_error(values, floor * below, ceiling * above, bits=bits)
        for below, above in product(shares if floor else [0.0], shares if ceiling else [0.0])
    )
    assert squared_error(values, low, high, bits=bits) <= 1.02 * best
    assert floor <= low <= 0 <= high <= ceiling


@pytest.mark.parametrize("kind", KINDS)
def test_no_symmetric_range_of_a_dense_search_is_two_percent_better(kind: str) -> None:
    values = sample(4000, kind)
    low, high = least_error_range(from_values(values), Grid(255, symmetric=True))
    peak = float(np.abs(values).max())
    best = min(
        squared_error(values, -peak * share, peak * share, symmetric=True)
        for share in np.linspace(0.02, 1, 300)
    )
    assert squared_error(values, low, high, symmetric=True) <= 1.02 * best


def test_a_wild_value_is_clipped_and_uniform_ones_are_not() -> None:
    assert least_error_range(from_values(sample(10**6, "outlier")), Grid())[1] < 40
    values = sample(20_000, "uniform")
    assert least_error_range(from_values(values), Grid())[1] >= 0.97 * values.max()


def test_fewer_bits_clip_more() -> None:
    hist = from_values(sample(20_000, "laplace"))
    ends = [least_error_range(hist, Grid(2**bits - 1))[1] for bits in (2, 3, 4, 6, 8, 12)]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1] / 2
