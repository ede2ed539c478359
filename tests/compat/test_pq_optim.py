"""The helpers that choose parameters by name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdq.compat.pytorch_quantization.optim import helper


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 1)
        self.downsample = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))


class Halves(nn.Module):
    """Stands for a quantizer: whole multiples of a half."""

    def __init__(self, fake_quant: bool = True) -> None:
        super().__init__()
        self.fake_quant = fake_quant

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * 2) / 2


class QuantizedLinear(nn.Linear):
    def __init__(self, fake_quant: bool = True) -> None:
        super().__init__(3, 2)
        self.weight_quantizer = Halves(fake_quant)


def names(model: nn.Module, parameters: Any) -> list[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [by_id[id(parameter)] for parameter in parameters]


def test_a_parameter_comes_once_per_pattern_that_is_found_in_its_name() -> None:
    model = Block()
    found = helper.match_parameters(model, ["conv1", "downsample.*weight$", "1.weight"])
    assert names(model, found) == [
        "conv1.weight",
        "conv1.weight",
        "conv1.bias",
        "downsample.0.weight",
        "downsample.1.weight",
        "downsample.1.weight",
    ]
    assert not list(helper.match_parameters(model, ["downsample.*.wei$"]))


def test_groups_carry_their_own_settings_into_an_optimizer() -> None:
    model = Block()
    patterns = [["conv1"], ["downsample.0", "downsample.1"]]
    groups = helper.group_parameters(model, patterns, [0.1, 0.2], None, [0.3, 0.0])
    assert [sorted(group) for group in groups] == [["lr", "params", "weight_decay"]] * 2
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.5)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3]
    settings = [(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups]
    assert settings == [(0.1, 0.5, 0.3), (0.2, 0.5, 0.0)]
    alone = helper.group_parameters(model, [["conv1"]], momentums=[0.9])
    assert alone[0]["momentum"] == 0.9


@pytest.mark.parametrize("argument", ["lrs", "momentums", "weight_decays"])
def test_a_setting_per_group_or_none(argument: str) -> None:
    message = rf"^len\({argument}\) must match len\(patterns_list\), 1 != 2$"
    with pytest.raises(TypeError, match=message):
        helper.group_parameters(Block(), [["a"], ["b"]], **{argument: [0.1]})


def test_a_group_is_a_list_of_patterns() -> None:
    with pytest.raises(TypeError, match="must be list of list of patterns, has 'conv1'"):
        helper.group_parameters(Block(), [["downsample"], "conv1"])


def test_frozen_parameters_get_no_gradient(caplog: pytest.LogCaptureFixture) -> None:
    model = Block()
    helper.freeze_parameters(model, ["downsample.0", r"bias$"])
    learning = [name for name, each in model.named_parameters() if each.requires_grad]
    assert learning == ["conv1.weight", "downsample.1.weight"]
    assert [record.getMessage() for record in caplog.records] == [
        "freeze conv1.bias",
        "freeze downsample.0.weight",
        "freeze downsample.1.bias",
    ]


def test_weights_take_their_quantized_values_where_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantizedLinear(), nn.Linear(2, 2), QuantizedLinear(fake_quant=False))
    before = [module.weight.detach().clone() for module in model]
    held = [module.weight for module in model]
    helper.quant_weight_inplace(model)
    assert [module.weight for module in model] == held
    assert torch.equal(model[0].weight, torch.round(before[0] * 2) / 2)
    assert not torch.equal(model[0].weight, before[0])
    assert torch.equal(model[1].weight, before[1])
    assert torch.equal(model[2].weight, before[2])
    assert model[0].weight.requires_grad
