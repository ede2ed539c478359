"""Which parameters learn, and that the others do not."""

from typing import Any

import pytest
import torch
from torch import nn
from training_nets import changed, flags, norm_net, quantized, tune, values

from qdq.errors import PolicyError
from qdq.nn import QuantLinear

pytest.importorskip("lightning", reason="the extra `train` is not installed")


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        ("3", {"3.weight", "3.bias"}),
        ("*.bias", {"0.bias", "2.bias", "3.bias"}),
        (nn.BatchNorm1d, {"2.weight", "2.bias"}),
        (["re:^0", "3.bias"], {"0.weight", "0.bias", "3.bias"}),
        (QuantLinear, {"0.weight", "0.bias", "3.weight", "3.bias"}),
    ],
)
def test_only_what_is_chosen_changes_ranges_and_statistics_included(
    trainable: Any, names: set[str]
) -> None:
    net = quantized(norm_net, bits=3)
    before = values(net)
    assert {"0._input_quantizer._amax", "2.running_mean"} <= set(before)
    report = tune(net, trainable=trainable)
    assert changed(net, before) == names
    assert report.tensors == len(names)


def test_flags_gradients_and_buffers_are_as_before_and_the_model_is_in_eval_mode() -> None:
    net = quantized(norm_net)
    frozen: Any = net[0]
    frozen.bias.requires_grad_(False)
    held = net[3].weight.grad = torch.ones_like(net[3].weight)
    before, before_values = flags(net), values(net)
    net.train()
    tune(net, trainable=["0", "2"])
    assert flags(net) == before
    assert net[3].weight.grad is held
    assert torch.equal(held, torch.ones_like(held))
    assert net[0].weight.grad is None
    assert not any(module.training for module in net.modules())
    assert changed(net, before_values) == {"0.weight", "2.weight", "2.bias"}  # not the frozen bias


def test_a_tied_weight_is_chosen_by_any_of_its_names_and_counted_once() -> None:
    net = quantized(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    net[2].weight = net[0].weight
    before = values(net)
    report = tune(net, trainable="*.weight")
    assert (report.tensors, report.parameters) == (1, 64)
    assert changed(net, before) == {"0.weight", "2.weight"}
    assert net[2].weight is net[0].weight
    assert tune(net, trainable="2.weight").tensors == 1


def test_frozen_parameters_alone_are_nothing_to_train() -> None:
    net = quantized()
    net.requires_grad_(False)
    with pytest.raises(PolicyError) as caught:
        tune(net, trainable="2")
    assert str(caught.value) == (
        "there is nothing to train: requires_grad is False for all that trainable= fits\n"
        "  at:  2.weight, 2.bias\n"
        "  fix: call parameter.requires_grad_(True), or name other parameters"
    )
