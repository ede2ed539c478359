"""Bias correction against float layers run one after the other beside rounded ones."""

import copy
from typing import Any

import pytest
import torch
from repair_nets import LAYERS, Net, batches, calibrated, float_net
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import CalibrationError, InputError, StepError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization
from qdq.nn import QuantConv2d, QuantWeighted
from qdq.numerics.affine import fake_quantize
from qdq.repair.bias_correction import correct_biases


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def clipping(target: str = "tensorrt") -> Net:
    """Its ranges hold half of what they should, so that means move; float biases, to compare."""
    model = calibrated(target)
    for module in model.modules():
        if isinstance(module, QuantWeighted):
            quantizer, module.integer_bias = module._input_quantizer, False
            assert quantizer.amin is not None
            assert quantizer.amax is not None
            quantizer.set_range(quantizer.amin / 2, quantizer.amax / 2)
    return model


BETWEEN = {"stem": F.relu, "plain": F.relu, "up": lambda y: F.relu(y).flatten(2).transpose(1, 2)}


def shifts_of(model: Net) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Layer by layer, float beside quantized: (shifts, float means), each (batches, C)."""
    shifts: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    means: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for x in batches():
        x_fq = x
        for name in LAYERS:
            layer: Any = float_net().get_submodule(name)
            rounded, quantized = copy.deepcopy(layer), model.get_submodule(name)
            rounded.weight.data = fake_quantize(layer.weight.detach(), quantized.weight_grid())  # type: ignore[operator]
            grid = quantized._input_quantizer.grid()  # type: ignore[operator, union-attr]
            y, y_fq = layer(x).detach(), rounded(fake_quantize(x_fq, grid)).detach()
            others = (0, 1) if name == "head" else (0, 2, 3)
            shift = (y - y_fq).mean(others, keepdim=True)
            shifts[name].append(shift.flatten())
            means[name].append(y.mean(others))
            y_fq = y_fq if layer.bias is None else y_fq + shift
            x, x_fq = (BETWEEN.get(name, nn.Identity())(each) for each in (y, y_fq))
    return tuple({n: torch.stack(e) for n, e in found.items()} for found in (shifts, means))  # type: ignore[return-value]


BIASED = [name for name in LAYERS if name != "plain"]


@pytest.mark.parametrize("name", BIASED)
def test_each_bias_takes_the_mean_shift_that_is_left_when_those_before_are_mended(
    name: str,
) -> None:
    model = clipping()
    wanted = shifts_of(model)[0][name].mean(0)
    correct_biases(model, batches(), progress=False)
    bias, before = (each.get_submodule(name).bias.detach() for each in (model, float_net()))
    torch.testing.assert_close(bias - before, wanted, atol=1e-6, rtol=1e-3)


def test_a_row_says_how_far_the_means_of_a_batch_are_off() -> None:
    model = clipping()
    shifts, means = shifts_of(model)
    for row in correct_biases(model, batches(), progress=False):
        shift = shifts[row.layer]
        signal = means[row.layer].square().sum()
        noise = [each.square().sum() for each in (shift, shift - shift.mean(0))]
        wanted = tuple(float(10 * (signal / each).log10()) for each in noise)
        assert (row.before_db, row.after_db) == pytest.approx(wanted, abs=1e-2)
        assert row.method == "bias"


@pytest.mark.parametrize(
    ("target", "quantized"),
    [("tensorrt", BIASED), ("onnxruntime", ["stem", "depthwise", "head"])],
)
def test_on_a_single_batch_every_layers_means_become_the_float_models(
    target: str, quantized: list[str]
) -> None:
    model, data = clipping(target), batches(1)
    gaps = gaps_of(model, data[0])
    correct_biases(model, data, progress=False)
    after = gaps_of(model, data[0])
    assert all(after[name] < 1e-5 < 1e-3 < gaps[name] for name in quantized), (gaps, after)


def gaps_of(model: Net, x: Tensor) -> dict[str, float]:
    """Largest difference between the channel means of a layer and of the float model's."""
    seen: dict[str, list[Tensor]] = {name: [] for name in BIASED}
    for net in (model, float_net()):
        for name in BIASED:
            layer: Any = net.get_submodule(name)
            # Before a quantizer on the output, which is the ReLU behind it too.
            if net is model:
                quantizer = layer._output_quantizer
                quantizer.register_forward_pre_hook(lambda _, a, n=name: seen[n].append(a[0]))
            else:
                layer.register_forward_hook(lambda _, a, y, n=name: seen[n].append(y))
        with torch.no_grad():
            net(x)
    for name in BIASED:
        model.get_submodule(name)._output_quantizer._forward_pre_hooks.clear()  # type: ignore[union-attr]
    means = {n: [y.mean((0, 1) if n == "head" else (0, 2, 3)) for y in e] for n, e in seen.items()}
    return {name: float((a - b).abs().max()) for name, (a, b) in means.items()}


def test_nothing_but_biases_changes_and_no_key_is_added() -> None:
    model, before = calibrated(), state(calibrated())
    rows = correct_biases(model, batches(), progress=False)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert list(after) == list(before)
    assert changed == {"stem.bias", "depthwise.bias", "up.bias", "head.bias"}
    assert [row.layer for row in rows] == ["stem", "depthwise", "up", "head"]


def test_the_mean_of_a_single_layers_output_is_the_float_models() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).eval()
    wanted = torch.cat([model(batch).detach() for batch in batches()]).mean((0, 2, 3))
    insert(model, batches()[0])
    model[0]._input_quantizer.set_range(-0.3, 0.3)  # type: ignore[operator, union-attr]  # clips
    gap = torch.cat([model(batch).detach() for batch in batches()]).mean((0, 2, 3)) - wanted
    correct_biases(model, batches(), progress=False)
    found = torch.cat([model(batch).detach() for batch in batches()]).mean((0, 2, 3))
    assert gap.abs().max() > 1e-2
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_second_call_takes_the_place_of_the_first() -> None:
    model, once = calibrated(), calibrated()
    correct_biases(model, batches(1, 9), progress=False)
    correct_biases(model, batches(), progress=False)
    correct_biases(once, batches(), progress=False)
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-6, rtol=0)


def test_a_switched_off_layer_keeps_its_bias() -> None:
    model = calibrated()
    with disable_quantization(model, "head"):
        rows = correct_biases(model, batches(), progress=False)
    assert torch.equal(model.head.bias, float_net().head.bias)
    assert "head" not in {row.layer for row in rows}


def test_after_an_error_every_bias_is_what_it_was() -> None:
    model = calibrated()
    correct_biases(model, batches(), progress=False)
    before = state(model)
    with pytest.raises(InputError, match="batch 1 holds NaN"):
        correct_biases(model, [batches()[0], batches()[0] * torch.nan], progress=False)
    assert all(torch.equal(each, before[name]) for name, each in state(model).items())


def test_nan_inside_the_model_is_named() -> None:
    model = calibrated()
    model.depthwise.register_forward_pre_hook(lambda _, args: (args[0] * torch.nan,))
    with pytest.raises(CalibrationError) as caught:
        correct_biases(model, batches(), progress=False)
    assert str(caught.value) == (
        "this layer's output holds NaN or infinity\n  at:  depthwise\n"
        "  fix: the model is broken on this data: look at the layers before this one"
    )


def test_a_layer_that_is_called_twice_takes_the_mean_of_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = QuantConv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.relu(self.conv(x)))

    torch.manual_seed(0)
    model = Twice().eval()
    model.conv._input_quantizer.set_range(-1.0, 1.0)
    shared = copy.deepcopy(model.conv)
    x = batches(1)[0]
    with torch.no_grad():
        first = nn.Conv2d.forward(shared, x)
        second = nn.Conv2d.forward(shared, F.relu(first))
        shifts = [(first - shared(x)).mean((0, 2, 3), keepdim=True)]
        shifts.append((second - shared(F.relu(shared(x) + shifts[0]))).mean((0, 2, 3)))
    correct_biases(model, [x], progress=False)
    wanted = (shifts[0].flatten() + shifts[1]) / 2
    torch.testing.assert_close(model.conv.bias - shared.bias, wanted, atol=1e-6, rtol=1e-3)


def test_it_needs_eval_mode_and_ranges() -> None:
    with pytest.raises(StepError, match="correct_biases needs"):
        correct_biases(calibrated().train(), batches(), progress=False)
    model = float_net()
    insert(model, batches()[0])
    with pytest.raises(CalibrationError, match=r"no range yet\n  at:  stem.input"):
        correct_biases(model, batches(), progress=False)
