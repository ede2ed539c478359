"""calibrate_weights against one calibrator per slice of each weight."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization.calib import HistogramCalibrator, calibrate_weights

METHODS = ["max", "percentile", "mse", "entropy"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        quant_nn.QuantConv2d(3, 4, 3),
        nn.ReLU(),
        quant_nn.QuantConvTranspose2d(4, 2, 3),
        nn.Conv2d(2, 2, 1),
        quant_nn.QuantLinear(6, 5),
        quant_nn.QuantLSTM(5, 3, num_layers=2, bidirectional=True),
        quant_nn.QuantLSTMCell(3, 2),
    )


def weights(model: nn.Module) -> Iterator[tuple[Tensor, Any, int]]:
    """(weight, its quantizer, axis of the output channels), written out."""
    for index, axis in ((0, 0), (2, 1), (4, 0)):
        yield model[index].weight, model[index].weight_quantizer, axis
    names = ["l0", "l0_reverse", "l1", "l1_reverse"]
    for name, quantizer in zip(names, model[5]._weight_quantizers, strict=True):
        halves = [getattr(model[5], f"weight_{kind}_{name}") for kind in ("ih", "hh")]
        yield torch.cat(halves, 1), quantizer, 0
    cell = model[6]
    yield torch.cat([cell.weight_ih, cell.weight_hh], 1), cell._weight_quantizer, 0


def amax_of(part: Tensor, method: str, number: int) -> Tensor:
    if method == "max":
        return part.detach().abs().max()
    calibrator = HistogramCalibrator(8, None, False, num_bins=number)
    calibrator.collect(part)
    options = {"percentile": 99.0} if method == "percentile" else {}
    amax = calibrator.compute_amax(method, **options)  # type: ignore[arg-type]
    assert amax is not None
    return amax


@pytest.mark.parametrize("number", [150, 2048])
@pytest.mark.parametrize("method", METHODS)
def test_every_channel_has_the_amax_of_a_calibrator_of_its_own(method: str, number: int) -> None:
    model = net()
    calibrate_weights(model, method=method, percentile=99.0, num_bins=number)
    for weight, quantizer, axis in weights(model):
        expected = [amax_of(part, method, number) for part in weight.unbind(axis)]
        shape = [1] * weight.dim()
        shape[axis] = weight.shape[axis]
        assert list(quantizer.amax.shape) == shape
        assert torch.equal(quantizer.amax.flatten(), torch.stack(expected))


@pytest.mark.parametrize("method", METHODS)
def test_or_one_amax_in_all_of_the_same_number_of_bins(method: str) -> None:
    model = net()
    calibrate_weights(model, method=method, perchannel=False, percentile=99.0, num_bins=150)
    for weight, quantizer, _ in weights(model):
        assert quantizer.amax.shape == ()
        assert torch.equal(quantizer.amax, amax_of(weight, method, 150))


def test_a_range_of_another_shape_is_replaced() -> None:
    model = net()
    for perchannel in (True, False, True):
        calibrate_weights(model, method="max", perchannel=perchannel)
        sizes = {quantizer.amax.numel() for _, quantizer, _ in weights(model)}
        assert (sizes == {1}) is not perchannel


def test_the_model_still_runs_and_inputs_are_left_alone() -> None:
    model = net()
    calibrate_weights(model)
    assert model[4].input_quantizer.amax is None
    assert bool(model[4](torch.randn(2, 6)).isfinite().all())


def test_an_unknown_method_names_the_known() -> None:
    message = r"^Unknown calibration method 'kl': choose one of max, mse, percentile, entropy$"
    with pytest.raises(TypeError, match=message):
        calibrate_weights(net(), method="kl")
