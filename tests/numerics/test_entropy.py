"""The divergence from sums over the histogram against the plain loop over bins and ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from range_samples import sample

from qdq.numerics.entropy import LINEAR_BINS, divergence, least_divergence_range
from qdq.numerics.grids import Grid
from qdq.numerics.histogram import from_values, to_linear

laws = settings(deadline=None, derandomize=True, database=None, max_examples=60)
Array = NDArray[np.float64]


def divergence_of(counts: Array, end: int, levels: int) -> float:
    """Kullback-Leibler divergence of one end, bin by bin."""
    reference, occupied = counts[:end].copy(), counts[:end] > 0
    reference[-1] += counts[end:].sum()
    group = np.arange(end) * levels // end
    mean = np.bincount(group, counts[:end]) / np.maximum(np.bincount(group, occupied), 1)
    candidate = np.where(occupied, mean[group], 0.0)
    if (candidate[reference > 0] == 0).any():
        return float("inf")
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def codes_up_to(end: float, low: float, high: float, levels: int) -> int:
    """How many of an affine grid's codes lie on |x| <= end."""
    return round((levels + 1) * end / (min(high, end) + min(-low, end)))


@laws
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any),
    levels=st.lists(st.integers(1, 70), min_size=60, max_size=60),
)
def test_the_divergence_of_every_end_and_any_number_of_levels_is_that_of_the_loop(
    counts: list[int], levels: list[int]
) -> None:
    given_counts, ends = np.array(counts, np.float64), np.arange(1, len(counts) + 1)
    each = np.array(levels[: len(counts)])
    expected = [
        divergence_of(given_counts, end, of) if given_counts[:end].any() else np.inf
        for end, of in zip(ends.tolist(), each.tolist(), strict=True)
    ]
    np.testing.assert_allclose(divergence(given_counts, ends, each), expected, atol=1e-9)
    same, of_each = divergence(given_counts, ends, levels[0]), np.full(len(ends), levels[0])
    np.testing.assert_array_equal(same, divergence(given_counts, ends, of_each))


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("normal", 255), ("relu", 255), ("outlier", 255), ("lopsided", 255), ("laplace", 15)],
)
def test_the_entropy_range_has_the_least_divergence_of_all_ends(kind: str, levels: int) -> None:
    hist = from_values(sample(5000, kind))
    counts, width = to_linear(hist, LINEAR_BINS)
    floor, ceiling = min(hist.amin, 0.0), max(hist.amax, 0.0)
    each = np.full(LINEAR_BINS + 1, np.inf)
    for end in range(1, LINEAR_BINS + 1):
        codes = codes_up_to(end * width, floor, ceiling, levels)
        if end >= codes:
            each[end] = divergence_of(counts, end, codes)
    low, high = least_divergence_range(hist, Grid(levels))
    best = int(each.argmin()) * width
    assert each.min() < np.inf
    assert (low, high) == pytest.approx((max(floor, -best), min(ceiling, best)))


def test_a_symmetric_grid_has_half_its_codes_for_values_of_one_sign() -> None:
    values = sample(5000, "relu")
    both = np.concatenate([values, -values])
    one_sided = least_divergence_range(from_values(values), Grid(255, symmetric=True))
    assert one_sided == (0.0, least_divergence_range(from_values(both), Grid(255))[1])


def test_the_range_of_negative_values_mirrors_that_of_positive_ones() -> None:
    values = sample(5000, "negative")
    low, high = least_divergence_range(from_values(values), Grid())
    assert (-high, -low) == least_divergence_range(from_values(-values), Grid())


@pytest.mark.parametrize("levels", [4095, 65535])
def test_a_grid_with_more_codes_than_bins_clips_nothing(levels: int) -> None:
    values = sample(5000, "outlier")
    assert least_divergence_range(from_values(values), Grid(levels)) == (values.min(), 60.0)
