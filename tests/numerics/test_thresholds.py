"""Range methods against what sorting the values gives, and the laws that all of them keep."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from range_samples import KINDS, Floats, sample, squared_error

from qdq.errors import RegistryError, SpecError
from qdq.numerics.grids import EIGHT_BITS, Grid
from qdq.numerics.histogram import Histogram, from_values, merge, to_linear
from qdq.numerics.squared_error import least_error_range
from qdq.numerics.thresholds import (
    METHODS,
    TAIL,
    Choice,
    choose,
    coverage_range,
    full_range,
    percentile_range,
)

NAMES = ["auto", "coverage", "entropy", "max", "mse", "percentile"]
OTHERS = [name for name in NAMES if name != "auto"]

laws = settings(deadline=None, derandomize=True, database=None, max_examples=25)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
samples = st.lists(finite, min_size=1, max_size=40).map(np.float32)
# Neither these nor their multiples by 2^-40..2^40 are subnormal.
middling = st.floats(2.0**-20, 2.0**20, width=32) | st.floats(-(2.0**20), -(2.0**-20), width=32)
scalable = st.lists(middling | st.just(0.0), min_size=1, max_size=40).map(np.float32)


def ends(choice: Choice) -> tuple[float, float]:
    return choice.amin, choice.amax


# ---- max, percentile


def test_max_is_all_that_was_seen_exactly() -> None:
    values = sample(100_000)
    assert full_range(from_values(values)) == (values.min(), values.max())
    assert full_range(from_values(np.float32([2.5, 3.5]))) == (2.5, 3.5)


def test_percentile_leaves_out_one_in_a_hundred_thousand_on_each_side() -> None:
    values = sample(1_000_000)
    low, high = percentile_range(from_values(values))
    ordered = np.sort(values)
    cut = round(TAIL * len(values))
    assert cut == 10
    assert high == pytest.approx(float(ordered[-1 - cut]), rel=1 / 256)
    assert low == pytest.approx(float(ordered[cut]), rel=1 / 256)


def test_percentile_is_blind_to_a_few_outliers_that_max_follows() -> None:
    values = sample(1_000_000)
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
    values = sign * (np.abs(sample(1_000_000)) + np.float32(1))
    low, high = percentile_range(from_values(values))
    if sign > 0:
        assert low == 0
        assert 1 < high <= values.max()
    else:
        assert high == 0
        assert values.min() <= low < -1


# ---- coverage


@pytest.mark.parametrize("kind", [*KINDS, "far from 0"])
def test_coverage_is_the_narrowest_interval_with_0_that_holds_all_but_one_in_ten_thousand(
    kind: str,
) -> None:
    values = sample(200_000) + np.float32(3) if kind == "far from 0" else sample(200_000, kind)
    low, high = coverage_range(from_values(values))
    assert ((values >= low) & (values <= high)).sum() >= 0.9999 * len(values)
    ordered = np.sort(values).astype(np.float64)
    held = int(np.ceil(0.9999 * len(values)))
    upper, lower = ordered[held - 1 :], ordered[: len(values) - held + 1]
    narrowest = (np.maximum(upper, 0) - np.minimum(lower, 0)).min()
    # Two ends, each no further off than its bin is wide.
    assert max(high, 0) - min(low, 0) <= narrowest + (abs(low) + abs(high)) / 256


# ---- choose, auto


def test_a_choice_is_what_the_method_finds_and_says_what_it_clips() -> None:
    values = sample(200_000, "outlier")
    hist = from_values(values)
    for name in OTHERS:
        choice = choose(hist, name)
        assert (ends(choice), choice.method) == (METHODS[name](hist), name)
    assert choose(hist, "max").why == "max clips nothing"
    narrow = choose(hist, "entropy", levels=15)
    outside = 100 * float(np.mean((values < narrow.amin) | (values > narrow.amax)))
    said = re.fullmatch(r"entropy clips ([\d.]+) % of the values", narrow.why)
    assert said is not None
    assert float(said[1]) == pytest.approx(outside, rel=0.05)


def test_a_clipped_share_that_nobody_can_picture_is_not_spelled_out() -> None:
    hist = from_values(np.append(np.linspace(-1, 1, 300_000), 50.0).astype(np.float32))
    assert choose(hist, "mse").why == "mse clips less than 0.001 % of the values"


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_auto_takes_the_range_of_least_error_and_names_all_in_order(
    kind: str, symmetric: bool
) -> None:
    values = sample(20_000, kind)
    hist = from_values(values)
    choice = choose(hist, "auto", symmetric=symmetric)
    assert METHODS["auto"](hist, Grid(255, symmetric)) == ends(choice)
    assert METHODS[choice.method](hist, Grid(255, symmetric)) == ends(choice)
    first, *others = re.findall(r"(\w+)(?: loses least:)? (-?[\d.]+)", choice.why)
    assert choice.why.startswith(f"auto: {choice.method} loses least: {first[1]} dB, ")
    assert sorted([first[0], *(name for name, _ in others)]) == OTHERS
    signal = float((values.astype(np.float64) ** 2).sum())
    for name, decibels in [first, *others]:
        low, high = METHODS[name](hist, Grid(255, symmetric))
        low, high = min(low, 0.0), max(high, 0.0)
        error = squared_error(values, low, high, symmetric=symmetric)
        assert float(decibels) == pytest.approx(10 * np.log10(signal / error), abs=0.25)
    assert all(float(a) >= float(b) for (_, a), (_, b) in pairwise([first, *others]))


def test_auto_takes_another_method_where_that_one_loses_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hist = from_values(sample(20_000, "laplace"))
    monkeypatch.setitem(METHODS, "mse", lambda hist, grid=EIGHT_BITS: (-0.01, 0.01))
    assert choose(hist, "auto").method in {"max", "percentile", "entropy", "coverage"}
    monkeypatch.setitem(METHODS, "third", least_error_range)
    assert ends(choose(hist, "auto")) == least_error_range(hist, EIGHT_BITS)
    assert "auto: third loses least: " in choose(hist, "auto").why


def test_levels_and_symmetry_reach_every_method_that_has_a_grid() -> None:
    hist = from_values(sample(20_000, "laplace"))
    for name in ("mse", "entropy", "auto"):
        assert choose(hist, name, levels=15).amax < 0.9 * choose(hist, name).amax
    lopsided = from_values(sample(20_000, "lopsided"))
    for name in ("mse", "entropy"):
        assert ends(choose(lopsided, name)) != ends(choose(lopsided, name, symmetric=True))


def test_methods_are_known_by_name_and_a_miss_names_them() -> None:
    assert sorted(METHODS) == NAMES
    assert METHODS["max"] is full_range
    assert METHODS["percentile"] is percentile_range
    with pytest.raises(RegistryError) as caught:
        choose(from_values(sample(10)), "percentil")
    assert str(caught.value) == (
        "no calibration method 'percentil'\n  fix: did you mean 'percentile'? known: "
        + ", ".join(NAMES)
    )
    with pytest.raises(SpecError, match="levels=1 steps"):
        choose(from_values(sample(10)), "max", levels=1)


# ---- laws


@pytest.mark.parametrize("name", NAMES)
@laws
@given(values=samples, levels=st.sampled_from([3, 15, 255]), symmetric=st.booleans())
def test_a_range_lies_within_what_was_seen_and_is_the_right_way_up(
    name: str, values: Floats, levels: int, symmetric: bool
) -> None:
    choice = choose(from_values(values), name, levels=levels, symmetric=symmetric)
    lowest, highest = min(0.0, float(values.min())), max(0.0, float(values.max()))
    assert lowest <= choice.amin <= choice.amax <= highest


@pytest.mark.parametrize("name", NAMES)
@laws
@given(values=scalable, power=st.integers(-40, 40), symmetric=st.booleans())
def test_values_times_a_power_of_two_have_just_that_times_the_range(
    name: str, values: Floats, power: int, symmetric: bool
) -> None:
    plain = choose(from_values(values), name, symmetric=symmetric)
    scaled = choose(from_values(values * np.float32(2.0**power)), name, symmetric=symmetric)
    assert ends(scaled) == (plain.amin * 2.0**power, plain.amax * 2.0**power)
    assert scaled.why == plain.why


@pytest.mark.parametrize("name", NAMES)
@laws
@given(first=samples, second=samples, third=samples)
def test_parts_merged_in_any_order_have_the_range_of_the_whole(
    name: str, first: Floats, second: Floats, third: Floats
) -> None:
    whole = choose(from_values(np.concatenate([first, second, third])), name)
    a, b, c = (from_values(part) for part in (first, second, third))
    assert choose(merge(merge(a, b), c), name) == choose(merge(c, merge(b, a)), name) == whole


# ---- histograms at the edge


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("values", [[0.0] * 9, [-0.0], [-0.0, 0.0]])
def test_a_site_that_only_saw_zeros_has_a_range_of_zero(name: str, values: list[float]) -> None:
    hist = from_values(np.float32(values))
    assert METHODS[name](hist) == (0.0, 0.0)
    expected = "auto: nothing but zeros was seen" if name == "auto" else f"{name} clips nothing"
    assert choose(hist, name).why == expected


# A symmetric grid has a code more for negative values, and may use it.
HELD = [(value, False) for value in (3.26, -3.25, 1e-30, 3.4028235e38, -3.4028235e38, 2.0**-126)]
HELD += [(value, True) for value in (3.26, 1e-30, 3.4028235e38, 1e38)]


@pytest.mark.parametrize("levels", [3, 255, 65535])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("value", "symmetric"), HELD)
def test_a_constant_is_held_whole(name: str, value: float, levels: int, symmetric: bool) -> None:
    hist = from_values(np.full(1000, value, np.float32))
    low, high = ends(choose(hist, name, levels=levels, symmetric=symmetric))
    assert max(-low, high) == pytest.approx(abs(value), rel=0.005)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values", [[1e-45], [1e-44, -1e-40, 0.0], [1e-39, 2e-39], [-1e-41] * 5 + [0.0], [1e-45, 1.0]]
)
def test_what_is_next_to_nothing_has_a_range_of_its_own_size(
    name: str, values: list[float]
) -> None:
    hist = from_values(np.float32(values))
    choice = choose(hist, name)
    assert min(hist.amin, 0.0) <= choice.amin <= choice.amax <= max(hist.amax, 0.0)
    assert max(-choice.amin, choice.amax) >= 0.4 * max(-hist.amin, hist.amax)


@pytest.mark.parametrize("name", NAMES)
def test_both_ends_of_the_floats_at_once_give_a_finite_range(name: str) -> None:
    most = float(np.finfo(np.float32).max)
    hist = from_values(np.float32([-most, most, 1.0, -1e-45, 0.0]))
    choice = choose(hist, name)
    assert -most <= choice.amin < 0 < choice.amax <= most


# ---- linear bins


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
