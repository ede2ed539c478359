"""Equalization leaves the float function alone, to the last bit, and the quantized one better."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate, choose_ranges
from qdq.errors import CalibrationError, InputError, StepError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization
from qdq.numerics.distance import sqnr
from qdq.repair.bias_correction import correct_biases
from qdq.repair.equalization import equalize_channels


class Uneven(nn.Module):
    """Channels of very different size between layers: plain, depthwise, in groups, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Conv2d(8, 10, 1)
        with torch.no_grad():
            for layer in (self.stem, self.depthwise, self.narrow, self.grouped):
                sizes = torch.randn(layer.out_channels).mul(1.5).exp()
                layer.weight.mul_(sizes.view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(F.relu(self.depthwise(F.relu(self.stem(x)))))
        x = x + self.grouped(F.leaky_relu(x, 0.1))
        return self.head(F.relu(x)).mean((2, 3))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 8, 8, generator=generator) for _ in range(2)]


def inserted(net: type[nn.Module] = Uneven, target: str = "onnxruntime") -> nn.Module:
    torch.manual_seed(0)
    model = net().eval()
    insert(model, batches()[0], target=target)
    return model


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches()])


def float_outputs(model: nn.Module) -> Tensor:
    with disable_quantization(model):
        return outputs(model)


def logits_db(model: nn.Module) -> float:
    calibrate(model, batches(), progress=False)
    return sqnr(float_outputs(model).numpy(), outputs(model).numpy())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_float_model_computes_the_same_bits() -> None:
    model = inserted()
    before, weights = float_outputs(model), state(model)
    assert equalize_channels(model, batches(), progress=False)
    assert torch.equal(float_outputs(model), before)
    assert not torch.equal(model.state_dict()["stem.weight"], weights["stem.weight"])


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_outputs_lose_noise_where_channels_differ_in_size(target: str) -> None:
    model = inserted(target=target)
    before = logits_db(copy.deepcopy(model))
    equalize_channels(model, batches(), progress=False)
    assert logits_db(model) > before + 3


def test_channels_that_a_depthwise_layer_reads_come_closer_in_size() -> None:
    def spread(model: nn.Module) -> float:
        seen: list[Tensor] = []
        layer = model.get_submodule("depthwise")
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        float_outputs(model)
        handle.remove()
        largest = torch.cat(seen).abs().amax((0, 2, 3))
        return float(largest.max() / largest.min())

    model = inserted()
    before = spread(model)
    equalize_channels(model, batches(), progress=False)
    assert spread(model) < before / 4


def test_every_reader_of_a_scaled_tensor_has_a_row_and_all_gain_together() -> None:
    rows = equalize_channels(inserted(), batches(), progress=False)
    assert {row.layer for row in rows} == {"depthwise", "narrow", "grouped", "head"}
    assert {row.method for row in rows} == {"equalization"}
    gains = {row.layer: row.after_db - row.before_db for row in rows}
    assert gains["depthwise"] > 0
    assert gains["narrow"] > 0


def test_nothing_changes_where_nothing_gains() -> None:
    class Even(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8))
            with torch.no_grad():
                for layer in (self[0], self[2]):
                    layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
                    layer.bias.zero_()

    model = inserted(Even)
    calibrate(model, batches(), progress=False)
    before = state(model)
    assert equalize_channels(model, batches(), progress=False) == ()
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_ranges_that_no_longer_fit_are_forgotten() -> None:
    model = inserted()
    calibrate(model, batches(), progress=False)
    equalize_channels(model, batches(), progress=False)
    with pytest.raises(CalibrationError, match="this quantizer has no range yet"):
        model(batches()[0])


def test_a_dead_channel_and_one_that_nobody_reads_do_no_harm() -> None:
    model = inserted()
    with torch.no_grad():
        model.get_parameter("stem.weight")[3] = 0
        model.get_parameter("stem.bias")[3] = 0
        model.get_parameter("depthwise.weight")[5] = 0
    before = float_outputs(model)
    equalize_channels(model, batches(), progress=False)
    assert torch.equal(float_outputs(model), before)
    assert all(torch.isfinite(each).all() for each in model.state_dict().values())


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = inserted()
    before = state(model)
    with pytest.raises(InputError, match="does not take inputs of shape"):
        equalize_channels(model, [batches()[0], torch.zeros(1, 5)], progress=False)
    assert all(torch.equal(before[name], each) for name, each in state(model).items())
    assert torch.isfinite(float_outputs(model)).all()


def test_infinity_inside_the_model_is_an_error_with_its_place() -> None:
    model = inserted()
    with torch.no_grad():
        model.get_parameter("stem.bias")[0] = torch.inf
    with pytest.raises(
        CalibrationError,
        match=r"the inputs of this layer hold NaN or infinity\n  at:  depthwise.input\n  fix: the ",
    ):
        equalize_channels(model, batches(), progress=False)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(StepError, match="equalize_channels needs the model in eval mode"):
        equalize_channels(inserted().train(), batches(), progress=False)


def test_histograms_of_before_are_forgotten_with_the_ranges() -> None:
    model = inserted()
    calibrate(model, batches(), progress=False)
    assert equalize_channels(model, batches(), progress=False)
    with pytest.raises(StepError, match="this model keeps no histograms"):
        choose_ranges(model, "max")


def test_a_bias_that_was_corrected_before_leaves_the_float_model_as_it_was() -> None:
    model = inserted()
    wanted = float_outputs(model)
    calibrate(model, batches(), progress=False)
    correct_biases(model, batches(), progress=False)
    assert equalize_channels(model, batches(), progress=False)
    torch.testing.assert_close(float_outputs(model), wanted, rtol=0, atol=1e-5)
