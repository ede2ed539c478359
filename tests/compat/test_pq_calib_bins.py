"""Histograms against numpy's: the same counts on every path, and bounded however they grow."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qdq.compat.pytorch_quantization.calib import HistogramCalibrator, bins
from qdq.compat.pytorch_quantization.calib.calibrator import _Calibrator
from qdq.errors import CalibrationError

VALUES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


def calibrator(*tensors: Tensor, number: int = 2048, **options: bool) -> HistogramCalibrator:
    found = HistogramCalibrator(8, None, False, num_bins=number, **options)
    for x in tensors:
        found.collect(x)
    return found


def parts(found: HistogramCalibrator) -> tuple[list[int], list[float]]:
    assert found._calib_hist is not None
    assert found._calib_bin_edges is not None
    return found._calib_hist.tolist(), found._calib_bin_edges.tolist()


def counted_one_by_one(x: Tensor, edges: list[float]) -> list[int]:
    """Each value in the bin whose lower edge it reaches last; the last bin is closed."""
    counts = [0] * (len(edges) - 1)
    for value in x.abs().flatten().tolist():
        reached = [index for index, edge in enumerate(edges) if edge <= value]
        counts[min(reached[-1], len(counts) - 1)] += 1
    return counts


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("number", [1, 19, 128, 2048])
def test_the_first_tensor_is_counted_as_numpy_counts_it(number: int) -> None:
    x = normal(40, 50)
    counts, edges = parts(calibrator(x, number=number))
    magnitude = x.abs().numpy()
    expected, expected_edges = np.histogram(magnitude, number, range=(0, float(magnitude.max())))
    assert counts == expected.tolist()
    np.testing.assert_array_equal(np.float32(edges), expected_edges.astype(np.float32))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from([1, 7, 16]))
def test_every_value_is_counted_once_in_its_bin_and_bins_grow_at_one_width(
    batches: list[list[float]], number: int
) -> None:
    found = calibrator(torch.tensor([1.0]), number=number)
    expected = [0] * (number - 1) + [1]
    for batch in batches:
        x = torch.tensor(batch)
        top, peak = parts(found)[1][-1], float(x.abs().max())
        width = top / len(expected)
        found.collect(x)
        counts, edges = parts(found)
        if peak > top:
            expected += [0] * (math.ceil(peak / width) - len(expected))
        expected = np.add(expected, counted_one_by_one(x, edges)).tolist()
        assert counts == expected
        assert edges[0] == 0
        assert edges[-1] >= peak
        np.testing.assert_allclose(np.diff(edges), 1 / number, rtol=1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from([1, 7, 2048]))
def test_numpy_and_torch_hold_the_same_counts_and_edges(
    batches: list[list[float]], number: int
) -> None:
    tensors = [torch.tensor(batch) for batch in batches]
    in_torch = calibrator(*tensors, number=number)
    in_numpy = calibrator(*tensors, number=number, torch_hist=False)
    assert isinstance(in_torch._calib_hist, Tensor)
    assert isinstance(in_torch._calib_bin_edges, Tensor)
    assert isinstance(in_numpy._calib_hist, np.ndarray)
    assert isinstance(in_numpy._calib_bin_edges, np.ndarray)
    assert in_torch._calib_hist.dtype == torch.int64
    assert in_numpy._calib_hist.dtype == np.int64
    assert in_torch._calib_bin_edges.dtype == torch.float32
    assert in_numpy._calib_bin_edges.dtype == np.float32
    assert parts(in_torch) == parts(in_numpy)


def test_the_kind_of_arrays_may_be_changed_on_the_way() -> None:
    x, more = normal(100), 3 * normal(100, seed=1)
    found = calibrator(x, torch_hist=False)
    found._torch_hist = True
    found.collect(more)
    assert isinstance(found._calib_hist, Tensor)
    assert parts(found) == parts(calibrator(x, more))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(VALUES, st.sampled_from([1, 7, 2048]))
def test_the_way_of_other_devices_counts_the_same(values: list[float], number: int) -> None:
    x = torch.tensor(values).abs()
    top = float(x.max())
    if top < number * bins.SMALLEST_WIDTH:
        return
    edges = bins.edges_of(number, top, x.device)
    assert torch.equal(bins.sorted_in(x, edges), bins.tally(x, number, top))


def test_any_shape_and_number_type_is_taken() -> None:
    whole = torch.arange(-50, 50)
    expected = parts(calibrator(whole.float()))
    strided = whole.view(10, 10).T
    for x in (whole, strided, whole.double(), whole.half(), whole.to(torch.int8), whole.bfloat16()):
        assert parts(calibrator(x)) == expected
    with torch.no_grad():
        weight = torch.nn.Parameter(whole.float())
    assert parts(calibrator(weight)) == expected
    assert calibrator(torch.ones(0))._calib_hist is None


def test_counts_do_not_stop_where_float32_runs_out_of_integers() -> None:
    found = calibrator(torch.ones(4), number=4)
    held = found._calib_hist
    assert isinstance(held, Tensor)
    held[0] = 2**24
    found.collect(torch.zeros(3))
    assert parts(found)[0] == [2**24 + 3, 0, 0, 4]


def test_zeros_can_be_left_out() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, 2.0])
    assert sum(parts(calibrator(x))[0]) == 4
    assert sum(parts(calibrator(x, skip_zeros=True))[0]) == 2
    assert calibrator(torch.zeros(3), skip_zeros=True)._calib_hist is None


@pytest.mark.parametrize("nothing", [0.0, 1e-45])
def test_a_first_tensor_of_zeros_decides_nothing(nothing: float) -> None:
    dead = torch.full((5,), nothing)
    counts, edges = parts(calibrator(dead, dead, number=8))
    assert counts == [10] + [0] * 7
    assert edges == [0.0] * 9
    x = normal(200)
    later = parts(calibrator(dead, x, number=8))
    alone = parts(calibrator(x, number=8))
    assert later[1] == alone[1]
    assert later[0] == [alone[0][0] + 5, *alone[0][1:]]


def test_ten_times_the_first_range_still_appends_bins() -> None:
    first, later = torch.tensor([1.0, 0.3]), torch.tensor([10.0, 0.3])
    counts, edges = parts(calibrator(first, later))
    assert len(counts) == 20480
    assert edges[2048] == 1
    assert sum(counts) == 4


@pytest.mark.parametrize("factor", [40, 1000, 1e12, 1e37])
def test_growth_is_bounded_and_merging_loses_no_value(factor: float) -> None:
    first, later = normal(500), normal(500, seed=1) * factor
    counts, edges = parts(calibrator(first, later))
    assert 2048 <= len(counts) <= 4096
    assert sum(counts) == 1000
    peak = float(later.abs().max())
    assert peak <= edges[-1] <= peak * (1 + 1 / 2000)
    assert counts[-1] > 0
    # Where the first values lie in merged bins, they lie where one count of all would put them.
    expected = counted_one_by_one(torch.cat([first, later]), edges)
    assert np.abs(np.subtract(counts, expected)).sum() <= 4


def test_the_largest_floats_have_a_bin() -> None:
    counts, edges = parts(calibrator(torch.tensor([3e38]), torch.tensor([3.4028e38]), number=3))
    assert counts == [0, 0, 1, 1]
    assert edges[-1] == np.finfo(np.float32).max


def test_resetting_forgets_all_and_takes_the_number_of_bins_as_it_was() -> None:
    found = calibrator(normal(9), 3 * normal(9))
    assert len(parts(found)[0]) > 2048
    found.reset()
    assert found.compute_amax("percentile") is None
    found.collect(normal(9))
    assert len(parts(found)[0]) == 2048


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_without_a_bin_is_an_error(bad: float) -> None:
    found = calibrator(normal(5))
    before = parts(found)
    with pytest.raises(CalibrationError, match=r"^a histogram has no bin for the value (nan|inf)"):
        found.collect(torch.tensor([1.0, bad]))
    assert parts(found) == before


def test_there_is_no_histogram_per_channel() -> None:
    message = r"^a histogram is kept per tensor only, got axis=0: choose calib_method='max'$"
    with pytest.raises(NotImplementedError, match=message):
        HistogramCalibrator(8, 0, False)


def test_a_grow_method_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    HistogramCalibrator(8, None, False, grow_method="stretch")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pytorch_quantization", logging.WARNING)
    assert "grow_method is deprecated and has no effect, got 'stretch'" in record.getMessage()


def test_negative_values_are_mentioned_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Calibrator, "_negative_met", False)
    with caplog.at_level(logging.WARNING, "pytorch_quantization"):
        calibrator(normal(9))
    with caplog.at_level(logging.INFO, "pytorch_quantization"):
        calibrator(normal(9).abs(), torch.zeros(0))
        assert not caplog.records
        calibrator(normal(9), normal(9))
        calibrator(normal(9))
    (record,) = caplog.records
    assert record.getMessage().startswith("Calibrator encountered negative values.")


def test_its_text_shows_the_edges() -> None:
    empty = calibrator()
    assert str(empty) == repr(empty) == "HistogramCalibrator(calib_bin_edges=None)"
    text = "HistogramCalibrator(calib_bin_edges=[0.000, ..., 2.500](2049))"
    for kind in (False, True):
        assert repr(calibrator(torch.tensor([2.5]), torch_hist=kind)) == text
