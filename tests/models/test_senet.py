"""The SE-net: its size, what a gate does, and that its calls are functions."""

import torch
from torch import nn

from models.senet import SeNet, senet


def test_an_image_of_any_size_gives_logits() -> None:
    model = SeNet(num_classes=3, width=0.25).eval()
    assert model(torch.zeros(2, 3, 48, 32)).shape == (2, 3)


def test_its_size_and_its_blocks_are_those_of_the_table() -> None:
    model = senet()
    assert sum(parameter.numel() for parameter in model.parameters()) == 235_210
    assert [block.has_shortcut for block in model.blocks] == [
        False, False, True, False, True, False, True,
    ]  # fmt: skip


def test_activations_gates_and_pools_are_calls_not_modules() -> None:
    leaves = {type(each) for each in senet().modules() if not any(True for _ in each.children())}
    assert leaves == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}


@torch.no_grad()
def test_a_closed_gate_lets_nothing_through() -> None:
    torch.manual_seed(0)
    block = senet(width=0.25).blocks[2].eval()
    x = torch.randn(1, 8, 6, 6)
    opened = block(x) - x
    nn.init.zeros_(block.excite.weight)
    nn.init.constant_(block.excite.bias, -200.0)
    torch.testing.assert_close(block(x) - x, torch.zeros_like(x))
    assert opened.abs().max() > 1e-3
