"""Models of the old classes in our own functions: sites, switches, ranges, training."""

import numpy as np
import onnx
import pytest
import torch
from pq_nets import calibrated, float_net, images, quant_net, quantizers_of
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization.tensor_quant import QuantDescriptor
from qdq.export.tracing import to_onnx
from qdq.nn.symbolic import emit_markers

SITES = ["0.input", "0.weight", "2.input", "2.weight", "3.input", "5.input", "5.weight"]


def test_quantizers_have_the_site_names_of_ours() -> None:
    assert list(qdq.quantizers(quant_net())) == SITES
    lstm = nn.ModuleDict({"rnn": quant_nn.QuantLSTM(3, 2, bidirectional=True)})
    assert list(qdq.quantizers(lstm)) == [
        "rnn.input_0",
        "rnn.input_1",
        "rnn.weight_0",
        "rnn.weight_1",
    ]


def test_our_switches_act_and_put_back_what_was() -> None:
    x, model = images(), quant_net()
    next(quantizers_of(model)).disable()
    before = [each.enabled for each in quantizers_of(model)]
    quantized = model(x)
    with qdq.disable_quantization(model):
        assert torch.equal(model(x), float_net()(x))
    assert [each.enabled for each in quantizers_of(model)] == before
    assert torch.equal(model(x), quantized)
    with qdq.enable_quantization(model, "0.input"):
        assert next(quantizers_of(model)).on
    assert [each.enabled for each in quantizers_of(model)] == before


def test_our_calibration_sees_the_float_model_as_theirs_does() -> None:
    data = [images(seed) for seed in (1, 2)]
    ours, theirs = quant_net(), calibrated(quant_net(), torch.cat(data))
    report = qdq.calibrate(ours, data, method="max", progress=False)
    assert [row.site for row in report.rows] == [s for s in SITES if s.endswith("input")]
    for mine, other in zip(quantizers_of(ours), quantizers_of(theirs), strict=True):
        if not mine.dynamic:
            torch.testing.assert_close(mine.amax, other.amax)
    torch.testing.assert_close(ours(data[0]), theirs(data[0]))


def test_calibration_shows_an_lstm_its_inputs_in_float() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5)
    model = nn.Sequential(quant_nn.QuantLSTM(5, 4)).eval()
    qdq.calibrate(model, [x], method="max", progress=False)
    floating = nn.LSTM(5, 4)
    floating.load_state_dict({k: v for k, v in model[0].state_dict().items() if "amax" not in k})
    states = torch.cat([torch.zeros(1, 2, 4), floating(x)[0][:-1]])
    seen = torch.cat([x, states], -1).abs().max()
    torch.testing.assert_close(model[0]._input_quantizers[0].amax, seen)


def test_sensitivity_ranks_the_layers_of_an_old_model() -> None:
    model = calibrated(quant_net(), images())
    found = list(quantizers_of(model))
    found[0].num_bits = 3
    report = qdq.sensitivity(model, [images()], progress=False)
    assert report.rows[0].layer == "0"
    assert {row.layer for row in report.rows} == {"0", "2", "3", "5"}
    assert all(each.on for each in found)


def test_an_old_model_learns_with_its_ranges_held() -> None:
    x, target = images(), torch.tensor([1, 3])
    model = calibrated(quant_net(), x)
    ranges = {name: each.clone() for name, each in model.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(x), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(each, ranges[name]) for name, each in model.named_buffers())


def test_the_grids_of_an_export_have_one_axis_whatever_the_shape_of_amax() -> None:
    x = images()
    model = calibrated(quant_net(), x)
    sites = qdq.quantizers(model)
    assert sites["0.weight"].grid(model[0].weight).scale.shape == (8,)
    assert sites["0.weight"].grid().spec.keep_axis == 0
    assert sites["2.weight"].grid().scale.shape == (4,)
    assert sites["2.weight"].grid().spec.keep_axis == 1
    assert sites["0.input"].grid(x).scale.shape == ()


@pytest.mark.parametrize("narrow", [False, True])
def test_markers_carry_the_sites_into_our_export(narrow: bool) -> None:
    x = images()
    model = calibrated(quant_net(), x)
    for quantizer in qdq.quantizers(model).values():
        quantizer.narrow_range = narrow
    with emit_markers() as calls:
        traced = to_onnx(model, x)
    assert [call.site for call in calls] == SITES
    marked = [n.attribute[0].s.decode() for n in traced.graph.node if n.domain == "qdq"]
    assert marked == SITES
    assert isinstance(traced, onnx.ModelProto)


def test_a_quantizer_of_a_users_own_module_is_ours_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._input_quantizer = quant_nn.TensorQuantizer(QuantDescriptor(amax=2.0))
            self._input_quantizer.pre_quant_scale = 4.0

        def forward(self, x: Tensor) -> Tensor:
            return self._input_quantizer(x)

    model = nn.Sequential(Scaled()).eval()
    assert isinstance(qdq.quantizers(model)["0.input"], qdq.TensorQuantizer)
    qdq.calibrate(model, [torch.tensor([[-1.0, 0.5]])], method="max", progress=False)
    assert model[0]._input_quantizer.amax == 4.0
    np.testing.assert_allclose(model(torch.tensor([9.0])), [4.0])
