"""percentile, mse and entropy against naive loops that follow their definitions."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.compat.pytorch_quantization.calib import HistogramCalibrator, histogram, searching
from qdq.compat.pytorch_quantization.cuda_ext import fake_e4m3fy

Array = NDArray[Any]


def samples(name: str, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, generator=rng)
    outlier = x.clone()
    outlier[7] = 40.0
    return {
        "normal": x,
        "relu": x.relu(),
        "outlier": outlier,
        "few": torch.tensor([0.0, 255, 255, 255, 256]),
        "heavy": x**3,
        "small": x[:40] * 1e-4,
    }[name]


NAMES = ["normal", "relu", "outlier", "few", "heavy", "small"]


def collected(
    name: str, unsigned: bool = False, bits: Any = 8, number: int = 300, torch_hist: bool = True
) -> HistogramCalibrator:
    found = HistogramCalibrator(bits, None, unsigned, num_bins=number, torch_hist=torch_hist)
    found.collect(samples(name) / 1.3)
    found.collect(samples(name, seed=1))
    return found


def held(found: HistogramCalibrator) -> tuple[Array, Array]:
    parts = (found._calib_hist, found._calib_bin_edges)
    counts, edges = (torch.as_tensor(part).clone().numpy() for part in parts)
    return counts, edges


def value(amax: Tensor | None) -> float:
    assert amax is not None
    assert (amax.dtype, amax.shape) == (torch.float32, ())
    return amax.item()


def naive_percentile(counts: Array, edges: Array, percentile: float) -> float:
    seen = 0
    for count, edge in zip(counts, edges[:-1], strict=True):
        seen += count
        if seen / counts.sum() >= percentile / 100:
            return float(edge)
    raise AssertionError("no bin reaches it")


def naive_mse(
    counts: Array, edges: Array, bits: int, unsigned: bool, stride: int = 1, start: int = 128
) -> float:
    bound = np.float32(2 ** (bits - 1 + unsigned) - 1)
    centers = (edges[1:] + edges[:-1]) / np.float32(2)
    best, least = math.nan, math.inf
    for index in range(start, len(centers), stride):
        scale = bound / centers[index]
        moved = np.clip(np.rint(centers * scale), -bound, bound) / scale
        error = math.fsum(counts * (moved - centers).astype(np.float64) ** 2)
        if error < least:
            best, least = float(centers[index]), error
    return best


def naive_entropy(
    counts: Array, edges: Array, bits: int, unsigned: bool, stride: int = 1, start: int = 128
) -> float:
    """Bin by bin, by the definition."""
    counts = counts.astype(float)
    counts[0] = counts[1]
    levels = 2 ** (bits - 1 + unsigned)
    best, least = math.nan, math.inf
    for end in range(start, len(counts) + 1, stride):
        reference = counts[:end].copy()
        reference[-1] += counts[end:].sum()
        places = np.digitize(np.arange(end), np.linspace(0, end, levels + 1)) - 1
        total: Counter[int] = Counter()
        occupants: Counter[int] = Counter()
        for index, place in enumerate(places.tolist()):
            if counts[index] > 0:
                total[place] += counts[index]
                occupants[place] += 1
        candidate = np.zeros(end)
        for index, place in enumerate(places.tolist()):
            if counts[index] > 0:
                candidate[index] = total[place] / occupants[place]
        divergence = 0.0
        for p, q in zip(reference, candidate, strict=True):
            if p > 0 and q == 0:
                divergence = math.inf
            elif p > 0:
                p, q = p / reference.sum(), q / candidate.sum()
                divergence += p * math.log(p / q)
        if divergence <= least:
            best, least = float(edges[end]), divergence
    return best


@pytest.mark.parametrize("torch_hist", [False, True])
@pytest.mark.parametrize("percentile", [0, 0.5, 50, 90, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("name", NAMES)
def test_percentile_is_the_lower_edge_of_the_bin_that_reaches_it(
    name: str, percentile: float, torch_hist: bool
) -> None:
    found = collected(name, torch_hist=torch_hist)
    amax = found.compute_amax("percentile", percentile=percentile)
    assert value(amax) == naive_percentile(*held(found), percentile)


def test_percentile_clips_by_at_most_one_bin() -> None:
    found = HistogramCalibrator(8, None, False)
    found.collect(torch.arange(100))
    for percentile in (80, 90, 100):
        amax = value(found.compute_amax("percentile", percentile=percentile))
        assert percentile - 1 - 99 / 2048 <= amax <= percentile - 1


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_mse_is_the_center_that_moves_all_centers_least(
    name: str, bits: int, unsigned: bool
) -> None:
    found = collected(name, unsigned, bits)
    assert value(found.compute_amax("mse")) == naive_mse(*held(found), bits, unsigned)
    searched = found.compute_amax("mse", stride=7, start_bin=30)
    assert value(searched) == naive_mse(*held(found), bits, unsigned, 7, 30)


@pytest.mark.parametrize("torch_hist", [False, True])
def test_mse_knows_eight_bit_floats(torch_hist: bool) -> None:
    found = collected("heavy", bits=(4, 3), torch_hist=torch_hist)
    counts, edges = held(found)
    centers = (edges[1:] + edges[:-1]) / np.float32(2)
    errors = []
    for center in centers[128:]:
        scale = np.float32(448) / center
        rounded = fake_e4m3fy(torch.from_numpy(centers * scale)).numpy() / scale
        errors.append(math.fsum(counts * (rounded - centers).astype(np.float64) ** 2))
    assert value(found.compute_amax("mse")) == centers[128 + int(np.argmin(errors))]


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "few"])
def test_entropy_is_the_edge_of_least_divergence(name: str, bits: int, unsigned: bool) -> None:
    found = collected(name, unsigned, bits)
    before = held(found)
    assert value(found.compute_amax("entropy")) == naive_entropy(*before, bits, unsigned)
    searched = found.compute_amax("entropy", stride=3, start_bin=60)
    assert value(searched) == naive_entropy(*before, bits, unsigned, 3, 60)
    np.testing.assert_array_equal(held(found)[0], before[0])  # bin 0 is replaced in a copy


def test_of_equal_divergences_the_last_edge_wins() -> None:
    counts = np.zeros(300, np.int64)
    counts[140] = 5
    edges = np.linspace(0, 3, 301, dtype=np.float32)
    amax = histogram._compute_amax_entropy(counts, edges, 8, False)
    assert value(amax) == naive_entropy(counts, edges, 8, False) == edges[300]


@pytest.mark.parametrize("unsigned", [False, True])
def test_entropy_with_fewer_bins_than_levels_follows_the_definition(unsigned: bool) -> None:
    found = collected("normal", unsigned, number=40)
    expected = naive_entropy(*held(found), 8, unsigned, 1, 20)
    assert value(found.compute_amax("entropy", start_bin=20)) == expected


def test_one_outlier_does_not_decide_the_range_of_entropy() -> None:
    for unsigned in (False, True):
        x = torch.rand(11, 7, 3, 3, generator=torch.Generator().manual_seed(0))
        x[1, 1, 1, 1] = 10
        found = HistogramCalibrator(8, None, unsigned)
        found.collect(x)
        assert value(found.compute_amax("entropy")) < 1.1


@pytest.mark.parametrize("method", ["mse", "entropy"])
@pytest.mark.parametrize("number", [1, 2, 100, 128])
def test_with_fewer_bins_than_the_search_skips_the_last_is_taken(method: str, number: int) -> None:
    found = HistogramCalibrator(8, None, False, num_bins=number)
    found.collect(torch.linspace(0, 2, 500))
    _, edges = held(found)
    last = edges[-1] if method == "entropy" else (edges[-1] + edges[-2]) / np.float32(2)
    assert value(found.compute_amax(method)) == last


@pytest.mark.parametrize("method", ["mse", "entropy", "percentile"])
def test_a_dead_layer_has_a_range_of_zero_and_no_data_none(method: str) -> None:
    found = HistogramCalibrator(8, None, False)
    assert found.compute_amax(method) is None
    found.collect(torch.zeros(10))
    assert value(found.compute_amax(method)) == 0


@pytest.mark.parametrize("method", ["mse", "entropy", "percentile"])
def test_the_private_functions_take_tensors_and_arrays(method: str) -> None:
    found = collected("normal")
    counts, edges = held(found)
    function = getattr(histogram, f"_compute_amax_{method}")
    rest = (99.9,) if method == "percentile" else (8, False)
    expected = function(found._calib_hist, found._calib_bin_edges, *rest)
    assert value(function(counts, edges, *rest)) == value(expected)
    assert value(function(counts.astype(np.float32), edges, *rest)) == value(expected)
    assert function(None, None, *rest) is None


def test_a_huge_histogram_is_searched_in_blocks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = collected("outlier")
    expected = [value(found.compute_amax(method)) for method in ("mse", "entropy")]
    monkeypatch.setattr(searching, "MSE_BLOCK", 1000)
    monkeypatch.setattr(searching, "ENTROPY_BLOCK", 13)
    assert [value(found.compute_amax(method)) for method in ("mse", "entropy")] == expected


@pytest.mark.parametrize("percentile", [-10, 100.1, float("nan")])
def test_a_percentile_lies_within_0_and_100(percentile: float) -> None:
    message = r"^Invalid percentile .*\. Must be in range 0 <= percentile <= 100\.$"
    with pytest.raises(ValueError, match=message):
        collected("normal").compute_amax("percentile", percentile=percentile)


def test_an_unknown_method_names_the_known() -> None:
    message = r"^Unknown calibration method 'max': choose one of entropy, mse, percentile$"
    with pytest.raises(TypeError, match=message):
        collected("normal").compute_amax("max")
    with pytest.raises(TypeError, match="method"):
        collected("normal").compute_amax()  # type: ignore[call-arg]


def test_eight_bit_floats_have_no_entropy() -> None:
    message = r"^entropy needs a number of bits, got \(4, 3\): choose method='mse' or 'percentile'$"
    with pytest.raises(TypeError, match=message):
        collected("normal", bits=(4, 3)).compute_amax("entropy")
