"""What the collector counts, against numpy on the same values."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration import collecting
from qdq.calibration.collecting import Clamps, Collector, site_and_entry
from qdq.errors import CalibrationError
from qdq.numerics.counting import count
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
        "batch 7 makes NaN or infinity here: 1 of 3 values\n"
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


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each call of `count` was given."""
    calls: list[int] = []

    def watched(x: Tensor) -> Histogram:
        calls.append(x.numel())
        return count(x)

    monkeypatch.setattr(collecting, "count", watched)
    return calls


def test_a_tensor_that_several_sites_see_is_counted_once_a_batch(counts: list[int]) -> None:
    collector, x = Collector(), torch.linspace(-1, 1, 6)
    for batch in range(2):
        collector.begin(batch)
        for site in ("a.input", "b.input", "c.input"):
            collector.observe(site, x)
    assert counts == [6, 6]
    wanted = counted(x.tolist(), x.tolist())
    assert all(same(hist, wanted) for hist in collector.histograms().values())


def test_a_tensor_that_was_written_to_is_another(counts: list[int]) -> None:
    collector, x = Collector(), torch.linspace(-1, 1, 6)
    collector.observe("a.input", x)
    x.mul_(2)
    collector.observe("b.input", x)
    assert len(counts) == 2
    assert same(collector.histograms()["b.input"], counted(x.tolist()))


def test_views_of_one_memory_are_told_apart_by_shape_and_strides() -> None:
    collector, x = Collector(), torch.arange(6.0)
    views = {"a.input": x, "b.input": x[:3], "c.input": x[::2], "d.input": x[3:]}
    for site, view in views.items():
        collector.observe(site, view)
    for site, hist in collector.histograms().items():
        assert same(hist, counted(views[site].tolist())), site


def test_memory_that_went_to_another_tensor_is_counted_anew() -> None:
    collector, memory = Collector(), np.zeros(6, np.float32)
    x = torch.from_numpy(memory)
    collector.observe("a.input", x)
    del x
    memory[:] = 5
    collector.observe("b.input", torch.from_numpy(memory))
    assert collector.histograms()["b.input"].amax == 5.0


def test_a_tensor_that_was_given_other_memory_lends_its_histogram_to_nobody() -> None:
    collector, memory = Collector(), np.zeros(6, np.float32)
    x = torch.from_numpy(memory)
    collector.observe("a.input", x)
    x.set_()  # type: ignore[call-overload]
    memory[:] = 5
    collector.observe("b.input", torch.from_numpy(memory))
    assert collector.histograms()["b.input"].amax == 5.0


def test_tensors_without_one_memory_pass_the_relus_that_are_followed() -> None:
    with Clamps(Collector()):
        assert torch.relu(torch.eye(3).to_sparse()).is_sparse
        assert F.relu(input=torch.tensor([-1.0])).item() == 0.0


def test_what_a_relu_makes_of_nan_is_counted_anew() -> None:
    collector, x = Collector({"b.input"}), torch.tensor([float("nan"), -1.0])
    with Clamps(collector):
        collector.observe("a.output", x)
        with pytest.raises(CalibrationError, match="1 of 2 values"):
            collector.observe("b.input", torch.relu(x))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("conv1.input", ("conv1.input", 0)),
        ("conv1.input[3]", ("conv1.input", 3)),
        ("a[0].input", ("a[0].input", 0)),
        ("a[0].input[12]", ("a[0].input", 12)),
        ("a[x]", ("a[x]", 0)),
    ],
)
def test_an_entry_of_a_site_is_told_from_a_name_with_brackets(
    name: str, wanted: tuple[str, int]
) -> None:
    assert site_and_entry(name) == wanted


def test_inference_tensors_are_never_taken_for_known(counts: list[int]) -> None:
    collector = Collector()
    with torch.inference_mode():
        x = torch.linspace(-1, 1, 6)
        collector.observe("a.input", x)
        x.mul_(2)
        collector.observe("b.input", x)
    assert len(counts) == 2
    assert collector.histograms()["b.input"].amax == 2.0


RELUS = {
    "F.relu": (F.relu, 0.0, math.inf),
    "torch.relu": (torch.relu, 0.0, math.inf),
    "x.relu": (Tensor.relu, 0.0, math.inf),
    "in place": (torch.relu_, 0.0, math.inf),
    "nn.ReLU in place": (nn.ReLU(inplace=True), 0.0, math.inf),
    "F.relu6": (F.relu6, 0.0, 6.0),
}


@pytest.mark.parametrize(("relu", "low", "high"), RELUS.values(), ids=RELUS)
def test_what_a_relu_makes_of_a_counted_tensor_is_not_counted(
    relu: Callable[[Tensor], Tensor], low: float, high: float, counts: list[int]
) -> None:
    collector, x = Collector(), torch.linspace(-9, 9, 37)
    wanted = counted(x.clamp(low, high).tolist())
    counts.clear()
    with Clamps(collector):
        collector.observe("a.output", x)
        y = relu(x)
        collector.observe("b.input", y)
        y.add_(1)
        collector.observe("c.input", y)
    assert counts == [37, 37]
    found = collector.histograms()
    assert same(found["b.input"], wanted)
    assert same(found["c.input"], counted(y.tolist()))


def test_limits_apply_to_what_is_counted_and_to_its_ends() -> None:
    values = [-math.inf, -2.0, -1e-40, 0.0, 0.5, 5.99, 6.0, 6.01, 700.0]
    collector = Collector({"a.output"}, limits={"a.output": (0.0, 6.0)})
    collector.observe("a.output", torch.tensor(values))
    clamped = [min(max(value, 0.0), 6.0) for value in values]
    assert same(collector.histograms()["a.output"], counted(clamped))


def test_nan_is_not_hidden_by_limits() -> None:
    collector = Collector({"a.output"}, limits={"a.output": (0.0, 6.0)})
    with pytest.raises(CalibrationError, match="1 of 2 values"):
        collector.observe("a.output", torch.tensor([math.nan, 1.0]))


def test_an_axis_that_keeps_its_scales_has_a_histogram_for_each_entry() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    collector = Collector(axes={"a.input": 1})
    collector.observe("a.input", x)
    found = collector.histograms()
    assert list(found) == ["a.input[0]", "a.input[1]", "a.input[2]"]
    for index, hist in enumerate(found.values()):
        assert same(hist, counted(x[:, index].flatten().tolist()))


def test_a_collector_goes_on_from_what_another_had() -> None:
    whole, first, second = Collector({"other"}), Collector({"other"}), Collector({"other"})
    batches = [torch.randn(3, 5), torch.randn(2, 5)]
    for batch in batches:
        whole.observe("a.input", batch)
    mask = torch.tensor([-math.inf])
    first.observe("mask.input", mask)
    first.observe("a.input", batches[0])
    second.resume(first.histograms(), first.dropped)
    second.observe("a.input", batches[1])
    second.observe("mask.input", torch.zeros(1))
    assert second.histograms().keys() == {"a.input"}
    assert same(second.histograms()["a.input"], whole.histograms()["a.input"])


SITES = ["a", "b", "c", "d"]
WAYS = {
    "as it is": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "both": lambda x: F.relu6(F.relu(x)),
}


@given(
    st.lists(
        st.dictionaries(st.sampled_from(SITES), st.sampled_from(sorted(WAYS)), max_size=4),
        min_size=1,
        max_size=5,
    ),
    st.sets(st.integers(0, 4)),
)
@settings(max_examples=80, deadline=None)
def test_sites_that_see_the_same_at_times_have_what_each_would_have_alone(
    batches: list[dict[str, str]], looked_at: set[int]
) -> None:
    together, wanted = Collector(), {site: Collector() for site in SITES}
    for number, ways in enumerate(batches):
        together.begin(number)
        x = torch.randn(7, generator=torch.Generator().manual_seed(number)) * 5
        with Clamps(together):
            together.observe("first", x)
            for site, way in ways.items():
                together.observe(site, WAYS[way](x))
        for site, way in ways.items():
            wanted[site].observe(site, WAYS[way](x))
        if number in looked_at:
            together.histograms()  # as a run that saves does
    found = together.histograms()
    for site, alone in wanted.items():
        hists = alone.histograms()
        assert (site in found) == (site in hists)
        assert site not in hists or same(found[site], hists[site])
