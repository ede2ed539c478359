"""Histograms of tensors, by numba and by torch, against numpy on the same values."""

import sys
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qdq.numerics import compiling, counters
from qdq.numerics.counters import Total, counted
from qdq.numerics.counting import count, in_memory_order
from qdq.numerics.histogram import Histogram, merge

FLOATS = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=60)


@pytest.fixture(params=["numba", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test twice: with the kernel of its own, and as if numba were not installed."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="the extra `fast` is not installed")
    else:
        monkeypatch.setitem(sys.modules, "numba", None)
        compiling.numba.cache_clear()
    yield
    compiling.numba.cache_clear()


def by_numpy(x: Tensor) -> Histogram:
    """By sorting the bit patterns' upper 17 bits."""
    values = np.ascontiguousarray(x.detach().float().cpu().numpy()).reshape(-1)
    bins, counts = np.unique(values.view(np.uint32) >> 15, return_counts=True)
    low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
    return Histogram(bins.astype(np.int64), counts.astype(np.int64), low, high)


def facts(hist: Histogram) -> tuple[list[int], list[int], str, str]:
    """Everything, with the signs of zeros."""
    return hist.bins.tolist(), hist.counts.tolist(), repr(hist.amin), repr(hist.amax)


@given(FLOATS)
@settings(max_examples=100, deadline=None)
def test_any_float32_is_counted_in_its_bin_infinities_too(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert facts(count(x)) == facts(by_numpy(x))


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF])
def test_a_nan_of_any_sign_and_payload_makes_the_ends_nan(bits: int) -> None:
    x = torch.from_numpy(np.array([0x3F800000, bits, 0xBF800000], np.uint32).view(np.float32))
    hist = count(x)
    assert np.isnan([hist.amin, hist.amax]).any()
    assert hist.total == 3


@pytest.mark.parametrize("place", [0, 150, 299])
def test_nan_in_any_threads_share_makes_an_end_nan(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "SHARE", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = torch.linspace(-1, 1, 300)
    x[place] = float("nan")
    hist = count(x)
    assert np.isnan([hist.amin, hist.amax]).any()


def test_a_negated_view_is_counted_negated() -> None:
    x = torch.view_as_complex(torch.randn(9, 2)).conj().imag
    assert x.is_neg()
    assert facts(count(x)) == facts(by_numpy(x.resolve_neg()))


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 0, 2, 1),
    "strided": lambda x: x[:, ::2, :, 1::3],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "scalar": lambda x: x[0, 0, 0, 0],
    "bfloat16": lambda x: x.bfloat16(),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_layout_thread_or_size_changes_the_counts(
    layout: Callable[[Tensor], Tensor], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "SHARE", 100)  # so that a small tensor is shared out
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x = layout(torch.randn(3, 4, 17, 9, generator=torch.Generator().manual_seed(0)))
    assert facts(count(x)) == facts(by_numpy(x))


def test_more_values_than_a_counter_holds_are_counted_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counters, "MOST", 7)
    x = torch.linspace(-3, 3, 100)
    assert facts(count(x)) == facts(by_numpy(x))


def test_a_large_tensor_goes_through_the_cache_in_pieces() -> None:
    x = torch.randn(5 * counters.CHUNK + 3, generator=torch.Generator().manual_seed(1)).relu()
    assert facts(count(x)) == facts(by_numpy(x))
    assert facts(count(x[:1])) == facts(by_numpy(x[:1]))  # the counters are empty again


def test_a_dense_tensor_is_read_where_it_lies() -> None:
    x = torch.randn(2, 3, 4, 5)
    for dense in (x, x.transpose(0, 2), x.to(memory_format=torch.channels_last)):
        assert in_memory_order(dense).data_ptr() == dense.data_ptr()
    gaps = x[:, :, ::2]
    assert in_memory_order(gaps).data_ptr() != gaps.data_ptr()


@given(FLOATS)
@settings(max_examples=60, deadline=None)
def test_an_array_is_counted_as_its_tensor_is(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert facts(counted(array)) == facts(count(torch.from_numpy(array)))


def test_an_array_with_nan_has_an_end_that_is_nan() -> None:
    hist = counted(np.array([1, np.nan, 2], np.float32))
    assert np.isnan([hist.amin, hist.amax]).any()
    assert hist.total == 3


@given(st.lists(FLOATS, min_size=1, max_size=6), st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_total_is_the_merge_of_what_was_added_in_any_order(
    parts: list[list[float]], chance: Random
) -> None:
    hists = [count(torch.tensor(part, dtype=torch.float32)) for part in parts]
    wanted = hists[0]
    for hist in hists[1:]:
        wanted = merge(wanted, hist)
    chance.shuffle(hists)
    total = Total()
    for hist in hists:
        total.add(hist)
    assert facts(total.histogram()) == facts(wanted)
