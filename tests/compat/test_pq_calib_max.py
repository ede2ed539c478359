"""MaxCalibrator against numpy's maximum over all that it saw."""

from typing import Any

import numpy as np
import pytest
import torch

from qdq.compat.pytorch_quantization.calib import MaxCalibrator
from qdq.compat.pytorch_quantization.calib.calibrator import _Calibrator


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("axis", "kept"), [(None, ()), (0, (0,)), (-1, (2,)), ((0, 2), (0, 2)), ([1, -1], (1, 2))]
)
def test_it_is_the_largest_magnitude_per_entry_of_the_kept_axes(
    axis: Any, kept: tuple[int, ...]
) -> None:
    calibrator = MaxCalibrator(8, axis, False)
    batches = [normal(3, 4, 5, seed=seed) for seed in range(3)]
    assert calibrator.compute_amax() is None
    for batch in batches:
        calibrator.collect(batch)
    amax = calibrator.compute_amax()
    assert amax is not None
    reduced = tuple(each for each in range(3) if each not in kept)
    expected = np.abs(np.stack(batches)).max(0).max(reduced, keepdims=axis is not None)
    assert amax.shape == expected.shape
    np.testing.assert_array_equal(amax.numpy(), expected)
    calibrator.reset()
    assert calibrator.compute_amax() is None


def test_without_an_axis_shapes_may_differ_and_with_one_they_may_not() -> None:
    whole = MaxCalibrator(8, None, False)
    whole.collect(torch.ones(2, 3))
    whole.collect(torch.full((5,), -2.0))
    assert whole.compute_amax() == 2
    rows = MaxCalibrator(8, 0, False)
    rows.collect(torch.ones(2, 3))
    rows.collect(torch.ones(2, 7))
    with pytest.raises(
        RuntimeError, match=r"^amax shape changed! It was \(2, 1\) and is \(3, 1\):"
    ):
        rows.collect(torch.ones(3, 3))


def test_it_remembers_every_tensor_where_asked_to() -> None:
    calibrator = MaxCalibrator(8, None, False, track_amax=True)
    for value in (1.0, -3.0, 2.0):
        calibrator.collect(torch.tensor([value, 0.5]))
    assert [float(each) for each in calibrator.amaxs] == [1, 3, 2]
    assert all(isinstance(each, np.ndarray) for each in calibrator.amaxs)
    calibrator.reset()
    assert calibrator.amaxs == []
    silent = MaxCalibrator(8, None, False)
    silent.collect(torch.ones(2))
    assert silent.amaxs == []


def test_nan_is_never_forgotten() -> None:
    calibrator = MaxCalibrator(8, None, False)
    for value in (1.0, float("nan"), 2.0):
        calibrator.collect(torch.tensor([value]))
    amax = calibrator.compute_amax()
    assert amax is not None
    assert bool(amax.isnan())


def test_no_gradient_and_no_tensor_of_the_model_is_kept() -> None:
    x = normal(4).requires_grad_()
    calibrator = MaxCalibrator(8, None, False)
    calibrator.collect(x * 2)
    amax = calibrator.compute_amax()
    assert amax is not None
    assert not amax.requires_grad
    weight = torch.tensor([3.0])
    calibrator.reset()
    calibrator.collect(weight)
    weight.fill_(9)
    assert calibrator.compute_amax() == 3


def test_its_text_and_its_base() -> None:
    calibrator = MaxCalibrator(7, 1, False, track_amax=True)
    assert isinstance(calibrator, _Calibrator)
    assert str(calibrator) == repr(calibrator) == "MaxCalibrator(track_amax=True)"
