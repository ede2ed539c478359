"""Chains of additions as one sum, where the target asks for it."""

import pytest
import torch
from torch import Tensor, nn

import qdq
from qdq.nn import QuantMultiAdd

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Three branches and their sum, written with `+` or as one module."""

    def __init__(self, add: nn.Module | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.last, self.add = nn.Conv2d(4, 2, 1), add

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.relu(self.a(x)), torch.relu(self.b(x)), torch.relu(self.c(x))
        total = sum(branches[1:], branches[0]) if self.add is None else self.add(*branches)
        return self.last(total)  # type: ignore[no-any-return]


def quantized(add: nn.Module | None, target: qdq.Target) -> nn.Module:
    model = Branches(add).eval()
    qdq.insert(model, X, target=target)
    qdq.calibrate(model, [X], method="max", progress=False)
    return model


def active(model: nn.Module) -> set[str]:
    return {name for name, each in qdq.quantizers(model).items() if each.on and "add" in name}


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime"])
@torch.no_grad()
def test_a_merged_chain_computes_what_one_multi_add_does(name: str) -> None:
    target = qdq.targets.get(name, merge_sums=True)
    chain, module = quantized(None, target), quantized(QuantMultiAdd(3), target)
    assert active(module) == {"add.input_0", "add.input_1", "add.input_2"}
    assert active(chain) == {"add_0.input_0", "add_0.input_1", "add_1.input_1"}
    torch.testing.assert_close(chain(X), module(X), rtol=0, atol=1e-6)


def test_without_the_option_the_sum_in_between_is_rounded_too() -> None:
    chain = quantized(None, qdq.targets.get("onnxruntime"))
    assert "add_1.input_0" in active(chain)
    why = {
        row.name: row.why
        for row in qdq.retarget(chain, qdq.targets.get("onnxruntime", merge_sums=True)).rows
    }
    assert why["add_1.input_0"] == "a sum within a longer sum, which is rounded as a whole"
