"""The histogram over the top bits of a float32: exact, orderless, and true to its values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qdq.numerics.histogram import (
    BINS,
    Histogram,
    bin_edges,
    from_counts,
    from_values,
    lower_tail,
    merge,
    upper_tail,
)

Floats = NDArray[np.float32]

laws = settings(deadline=None, derandomize=True, database=None, max_examples=60)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
samples = st.lists(finite, min_size=1, max_size=60).map(lambda v: np.array(v, np.float32))


def bins_of(values: Floats) -> NDArray[np.int64]:
    """Sign, exponent and 8 bits of mantissa, taken apart by arithmetic."""
    size = np.abs(values.astype(np.float64))
    mantissa, exponent = np.frexp(size)
    normal = (exponent + 126) * 256 + np.floor((mantissa * 2 - 1) * 256)
    top = np.where(size < 2.0**-126, np.floor(np.ldexp(size, 126 + 8)), normal)
    return (top + np.where(np.signbit(values), 2**16, 0)).astype(np.int64)


def assert_same(first: Histogram, second: Histogram) -> None:
    np.testing.assert_array_equal(first.bins, second.bins)
    np.testing.assert_array_equal(first.counts, second.counts)
    assert (first.amin, first.amax) == (second.amin, second.amax)


@laws
@given(values=samples)
def test_every_value_is_counted_once_in_the_bin_of_its_top_bits(values: Floats) -> None:
    hist = from_values(values)
    bins, counts = np.unique(bins_of(values), return_counts=True)
    np.testing.assert_array_equal(hist.bins, bins)
    np.testing.assert_array_equal(hist.counts, counts)
    assert hist.total == len(values)
    assert (hist.amin, hist.amax) == (values.min(), values.max())


@laws
@given(values=samples, order=st.randoms(use_true_random=False), cut=st.integers(1, 59))
def test_order_and_partition_do_not_matter(values: Floats, order: object, cut: int) -> None:
    shuffled = values.copy()
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if len(part)]
    merged = from_values(parts[0])
    for part in parts[1:]:
        merged = merge(merged, from_values(part))
    assert_same(merged, from_values(values))


@laws
@given(first=samples, second=samples, third=samples)
def test_merging_commutes_and_associates(first: Floats, second: Floats, third: Floats) -> None:
    a, b, c = (from_values(values) for values in (first, second, third))
    assert_same(merge(a, b), merge(b, a))
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))


def test_the_shape_and_layout_of_the_values_do_not_matter() -> None:
    values = np.random.default_rng(0).standard_normal((6, 8, 4)).astype(np.float32)
    assert_same(from_values(values), from_values(values.reshape(-1)))
    assert_same(from_values(values.transpose(2, 0, 1)), from_values(values))


def test_counts_past_the_reach_of_float32_stay_exact() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[300], counts[70000] = 2**40 + 1, 3
    hist = from_counts(counts, -1.0, 1.0)
    twice = merge(hist, hist)
    assert twice.counts.tolist() == [2**41 + 2, 6]
    assert twice.total == 2**41 + 8
    assert twice.bins.tolist() == [300, 70000]


@laws
@given(values=samples)
def test_every_value_lies_between_the_edges_of_its_bin(values: Floats) -> None:
    low, high = bin_edges(bins_of(values))
    assert (low < high).all()
    assert ((low <= values) & (values <= high)).all()


def test_a_bin_is_at_most_one_256th_of_its_values_wide() -> None:
    every = np.arange(256, 255 * 256)  # positive, not subnormal, finite
    low, high = bin_edges(every)
    assert ((high - low) <= low / 256).all()
    np.testing.assert_array_equal(high[:-1], low[1:])


def test_the_bins_of_negative_values_mirror_the_positive() -> None:
    every = np.arange(0, 255 * 256)
    low, high = bin_edges(every)
    mirrored_low, mirrored_high = bin_edges(every + BINS // 2)
    np.testing.assert_array_equal(mirrored_low, -high)
    np.testing.assert_array_equal(mirrored_high, -low)
    assert np.isfinite(high).all()


def kept(values: Floats, share: float) -> float | None:
    """The largest value left when `share` of all were cut off above; None if not positive."""
    index = int(share * len(values))
    ordered = values[np.lexsort((~np.signbit(values), values))][::-1]  # 0.0 above -0.0
    left = ordered[index] if index < len(ordered) else np.float32(-1)
    return None if np.signbit(left) else float(left)


@laws
@given(values=samples, share=st.floats(0, 1))
def test_the_upper_tail_ends_in_the_bin_of_the_exact_quantile(values: Floats, share: float) -> None:
    tail, exact = upper_tail(from_values(values), share), kept(values, share)
    if exact is None:
        assert tail == 0
        return
    low, high = bin_edges(bins_of(np.array([exact], np.float32)))
    assert low[0] <= tail <= min(high[0], values.max())


def test_a_share_of_whole_values_cuts_off_just_those() -> None:
    hist = from_values(np.array([1, 2, 4, 8], np.float32))
    for share, left in ((0.25, 4), (0.5, 2), (0.75, 1)):
        assert left <= upper_tail(hist, share) <= left * (1 + 1 / 256)
    assert upper_tail(hist, 1.0) == 0


@laws
@given(values=samples, share=st.floats(0, 1))
def test_the_lower_tail_is_the_upper_tail_of_the_mirrored_values(
    values: Floats, share: float
) -> None:
    assert lower_tail(from_values(values), share) == -upper_tail(from_values(-values), share)


@laws
@given(values=samples)
def test_cutting_nothing_off_gives_the_exact_ends(values: Floats) -> None:
    hist = from_values(values)
    assert upper_tail(hist, 0.0) == max(values.max(), 0)
    assert lower_tail(hist, 0.0) == min(values.min(), 0)


@laws
@given(values=samples, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_cutting_more_off_never_widens_the_range(
    values: Floats, shares: tuple[float, float]
) -> None:
    hist = from_values(values)
    less, more = sorted(shares)
    assert upper_tail(hist, more) <= upper_tail(hist, less)
    assert lower_tail(hist, more) >= lower_tail(hist, less)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 1e-3, 1e-4])
def test_the_tail_of_a_dense_sample_is_its_quantile_to_a_thousandth(share: float) -> None:
    values = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    values = np.abs(values)
    exact = float(np.quantile(values.astype(np.float64), 1 - share))
    assert upper_tail(from_values(values), share) == pytest.approx(exact, rel=2e-3)
