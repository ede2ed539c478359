"""What the collector counts, against numpy on the same values."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.calibration.collecting import Collector
from qdq.errors import CalibrationError
from qdq.numerics.histogram import Histogram

VALUES = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40
)


def counted(*batches: list[float], site: str = "a.input") -> Histogram:
    collector = Collector()
    for batch in batches:
        collector.observe(site, torch.tensor(batch, dtype=torch.float32))
    return collector.histograms()[site]


def same(first: Histogram, second: Histogram) -> bool:
    return (
        np.array_equal(first.bins, second.bins)
        and np.array_equal(first.counts, second.counts)
        and (first.amin, first.amax) == (second.amin, second.amax)
    )


def by_hand(values: list[float]) -> tuple[dict[int, int], float, float]:
    """Counts by the top 17 bits of each float32, in plain Python."""
    counts: dict[int, int] = {}
    for bits in np.asarray(values, np.float32).view(np.uint32).tolist():
        counts[bits >> 15] = counts.get(bits >> 15, 0) + 1
    return counts, float(np.float32(min(values))), float(np.float32(max(values)))


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_every_value_is_counted_in_the_bin_of_its_top_bits(values: list[float]) -> None:
    hist = counted(values)
    counts, low, high = by_hand(values)
    assert dict(zip(hist.bins.tolist(), hist.counts.tolist(), strict=True)) == counts
    assert (hist.amin, hist.amax) == (low, high)
    assert hist.total == len(values)


@given(values=VALUES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_order_and_partition_gives_the_same_histogram(
    values: list[float], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    ends = [0, *cuts, len(values)]
    parts = [list(shuffled[a:b]) for a, b in itertools.pairwise(ends)]
    assert same(counted(values), counted(*parts))


def test_the_shape_and_strides_of_a_tensor_do_not_matter() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5)
    wanted = counted(x.flatten().tolist())
    for view in (x, x.permute(2, 0, 1), x.flip(0), x[:, ::1].contiguous()):
        collector = Collector()
        collector.observe("a.input", view)
        assert same(collector.histograms()["a.input"], wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_counted_as_float32(dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 2, 17).to(dtype)
    collector = Collector()
    collector.observe("a.input", x)
    assert same(collector.histograms()["a.input"], counted(x.float().tolist()))


def test_sites_are_counted_apart() -> None:
    collector = Collector()
    collector.observe("a.input", torch.tensor([1.0, 2.0]))
    collector.observe("b.input", torch.tensor([-3.0]))
    found = collector.histograms()
    assert {site: (hist.amin, hist.amax, hist.total) for site, hist in found.items()} == {
        "a.input": (1.0, 2.0, 2),
        "b.input": (-3.0, -3.0, 1),
    }


def test_an_empty_tensor_counts_nothing() -> None:
    collector = Collector()
    collector.observe("a.input", torch.empty(0, 3))
    assert collector.histograms() == {}


def test_the_observed_tensor_and_its_gradients_are_left_alone() -> None:
    x = torch.linspace(-1, 1, 5).requires_grad_()
    y = x * 2
    collector = Collector()
    collector.observe("a.input", y)
    assert y.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0] * 5


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_an_error_with_batch_and_site(broken: float) -> None:
    collector = Collector({"layer1.0.conv1.input"})
    collector.batch = 7
    with pytest.raises(CalibrationError) as caught:
        collector.observe("layer1.0.conv1.input", torch.tensor([0.0, broken, 1.0]))
    assert str(caught.value) == (
        "batch 7 makes NaN or infinity here\n"
        "  at:  layer1.0.conv1.input\n"
        "  fix: the float model is broken on this batch: look at the layers before this site"
    )
    assert collector.histograms() == {}


def test_a_site_that_is_not_in_use_is_dropped_when_it_is_not_finite() -> None:
    collector = Collector({"other.input"})
    for values in ([0.0, 1.0], [-float("inf"), 0.0], [2.0, 3.0]):
        collector.observe("mask.input_1", torch.tensor(values))
    collector.observe("other.input", torch.tensor([1.0]))
    assert collector.histograms().keys() == {"other.input"}
