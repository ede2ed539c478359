"""Range methods against what sorting the values gives."""

from itertools import pairwise

import numpy as np
import pytest

from qdq.errors import RegistryError
from qdq.numerics.histogram import Histogram, bin_edges, from_values, merge, to_linear
from qdq.numerics.thresholds import (
    METHODS,
    TAIL,
    coverage_range,
    entropy_range,
    full_range,
    grid_error,
    mse_range,
    percentile_range,
)

KINDS = ["normal", "laplace", "relu", "uniform", "outlier", "lopsided", "negative"]


def sample(count: int = 1_000_000, kind: str = "normal") -> np.ndarray:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(count)
    values = {
        "normal": normal,
        "laplace": rng.laplace(size=count),
        "relu": np.maximum(normal, 0),
        "uniform": rng.uniform(-1, 1, count),
        "outlier": np.where(np.arange(count) == 7, 60.0, normal),
        "lopsided": np.where(normal < 0, normal / 20, normal),
        "negative": -np.abs(normal) - 0.5,
    }[kind]
    return values.astype(np.float32)


def test_max_is_all_that_was_seen_exactly() -> None:
    values = sample()
    assert full_range(from_values(values)) == (values.min(), values.max())
    assert full_range(from_values(np.float32([2.5, 3.5]))) == (2.5, 3.5)


def test_percentile_leaves_out_one_in_a_hundred_thousand_on_each_side() -> None:
    values = sample()
    low, high = percentile_range(from_values(values))
    ordered = np.sort(values)
    cut = round(TAIL * len(values))
    assert cut == 10
    assert high == pytest.approx(float(ordered[-1 - cut]), rel=1 / 256)
    assert low == pytest.approx(float(ordered[cut]), rel=1 / 256)


def test_percentile_is_blind_to_a_few_outliers_that_max_follows() -> None:
    values = sample()
    spoiled = values.copy()
    spoiled[:5] = 1e6
    hist = from_values(spoiled)
    assert full_range(hist)[1] == 1e6
    assert percentile_range(hist)[1] < values.max()


def test_percentile_of_fewer_values_than_it_may_leave_out_is_the_whole_range() -> None:
    values = sample(1000)
    low, high = percentile_range(from_values(values))
    # Less than one value may go: the ends move within their own bins only.
    assert high == pytest.approx(float(values.max()), rel=1 / 256)
    assert low == pytest.approx(float(values.min()), rel=1 / 256)
    assert high <= values.max()
    assert low >= values.min()


@pytest.mark.parametrize("sign", [1, -1])
def test_percentile_of_one_sided_values_ends_at_zero_on_the_other_side(sign: int) -> None:
    values = sign * (np.abs(sample()) + np.float32(1))
    low, high = percentile_range(from_values(values))
    if sign > 0:
        assert low == 0
        assert 1 < high <= values.max()
    else:
        assert high == 0
        assert values.min() <= low < -1


def test_a_site_that_only_saw_zeros_has_a_range_of_zero() -> None:
    hist = from_values(np.zeros(100, np.float32))
    for method in METHODS.values():
        assert method(hist) == (0.0, 0.0)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_range_is_the_same_for_one_batch_and_for_many(name: str) -> None:
    values = sample(100_000)
    parts = [from_values(part) for part in np.array_split(values[::-1], 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(part, merged)
    assert METHODS[name](merged) == METHODS[name](from_values(values))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_range_lies_within_what_was_seen_and_is_the_right_way_up(name: str) -> None:
    for values in (sample(5000), np.float32([-3, -2]), np.float32([0.0]), np.float32([1e-44, 2])):
        low, high = METHODS[name](from_values(values))
        assert min(0.0, float(values.min())) <= low <= high <= max(0.0, float(values.max()))


def test_methods_are_known_by_name_and_a_miss_names_them() -> None:
    assert METHODS["max"] is full_range
    assert METHODS["percentile"] is percentile_range
    with pytest.raises(RegistryError) as caught:
        METHODS["percentil"]
    assert str(caught.value).startswith(
        "no calibration method 'percentil'\n  fix: did you mean 'percentile'? known: "
    )


# ---- coverage


@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_the_narrowest_interval_that_holds_all_but_one_in_ten_thousand(
    kind: str,
) -> None:
    values = sample(200_000, kind)
    low, high = coverage_range(from_values(values))
    inside = ((values >= low) & (values <= high)).sum()
    assert inside >= 0.9999 * len(values)
    ordered = np.sort(values).astype(np.float64)
    held = int(np.ceil(0.9999 * len(values)))
    narrowest = (ordered[held - 1 :] - ordered[: len(values) - held + 1]).min()
    # Two ends, each no further off than its bin is wide.
    assert high - low <= narrowest + (abs(low) + abs(high)) / 256


# ---- mse


def squared_error(values: np.ndarray, low: float, high: float, weight: float = 2.0) -> float:
    """What quantizing each value in 255 steps does, the clipped ones counted `weight` times."""
    wide = values.astype(np.float64)
    step = (high - low) / 255
    inside = (wide >= low) & (wide <= high)
    rounded = np.where(inside, np.rint(wide / step) * step, np.clip(wide, low, high))
    return float(((rounded - wide) ** 2 * np.where(inside, 1.0, weight)).sum())


@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (-1.0, 3.0), (0.0, 2.5), (-0.2, 0.05)])
@pytest.mark.parametrize("kind", ["normal", "relu", "lopsided"])
def test_the_error_of_a_grid_is_that_of_values_spread_over_their_bins(
    kind: str, low: float, high: float
) -> None:
    hist = from_values(sample(300, kind))
    left, right = bin_edges(hist.bins)
    places = (np.arange(4000) + 0.5) / 4000
    spread = left[:, None] + (right - left)[:, None] * places
    each = [squared_error(row, low, high) / len(row) for row in spread]
    expected = float(np.dot(each, hist.counts))
    (error,) = grid_error(hist, np.array([low]), np.array([high]))
    assert error == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mse_range_is_within_two_percent_of_the_best_that_a_dense_search_finds(
    kind: str,
) -> None:
    values = sample(20_000, kind)
    low, high = mse_range(from_values(values))
    floor, ceiling = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.concatenate([np.linspace(0.02, 0.3, 30), np.linspace(0.31, 1, 40)])
    best = min(
        squared_error(values, floor * below, ceiling * above)
        for below in (shares if floor else [0.0])
        for above in (shares if ceiling else [0.0])
    )
    assert squared_error(values, low, high) <= 1.02 * best
    assert floor <= low <= 0 <= high <= ceiling


def test_the_mse_range_scales_with_the_values() -> None:
    values = sample(50_000, "laplace")
    low, high = mse_range(from_values(values))
    for factor in (2.0**-100, 2.0**100):
        scaled = mse_range(from_values((values * factor).astype(np.float32)))
        assert scaled == pytest.approx((low * factor, high * factor), rel=1e-9)


def test_the_mse_range_clips_one_wild_value_but_no_uniform_ones() -> None:
    assert mse_range(from_values(sample(kind="outlier")))[1] < 40
    values = sample(20_000, "uniform")
    assert mse_range(from_values(values))[1] >= 0.97 * values.max()


# ---- entropy


def divergence_of(counts: np.ndarray, end: int, levels: int) -> float:
    """Kullback-Leibler divergence of one end, bin by bin."""
    reference, candidate = counts[:end].copy(), np.zeros(end)
    reference[-1] += counts[end:].sum()
    edges = [-(-group * end // levels) for group in range(levels + 1)]
    for start, stop in pairwise(edges):
        part = counts[start:stop]
        if part.any():
            candidate[start:stop] = np.where(part > 0, part.sum() / (part > 0).sum(), 0)
    if (candidate[reference > 0] == 0).any():
        return float("inf")
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "outlier", "negative"])
def test_the_entropy_range_has_the_least_divergence_of_all_2048_ends(kind: str) -> None:
    hist = from_values(sample(5000, kind))
    counts, width = to_linear(hist, 2048)
    levels = 256 if hist.amin >= 0 else 128
    ends = range(levels, 2049)
    each = [divergence_of(counts, end, levels) for end in ends]
    assert min(each) < float("inf")
    low, high = entropy_range(hist)
    chosen = max(-low, high) if max(-low, high) < max(-hist.amin, hist.amax) else 2048 * width
    assert each[round(chosen / width) - levels] <= min(each) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_linear_bins_hold_what_a_histogram_of_the_magnitudes_counts(kind: str) -> None:
    values = sample(200_000, kind)
    counts, width = to_linear(from_values(values), 64)
    magnitude = np.abs(values[values != 0]).astype(np.float64)
    expected, edges = np.histogram(magnitude, bins=64, range=(0, magnitude.max()))
    assert width == pytest.approx(edges[1])
    assert counts.sum() == pytest.approx(len(magnitude))
    # Only values in a bin of ours that an edge cuts may be counted on its other side.
    np.testing.assert_allclose(np.cumsum(counts), np.cumsum(expected), atol=0.006 * len(values))


def test_linear_bins_of_nothing_but_zeros_are_empty() -> None:
    hist: Histogram = from_values(np.zeros(5, np.float32))
    counts, width = to_linear(hist, 8)
    assert counts.tolist() == [0] * 8
    assert width == 0
