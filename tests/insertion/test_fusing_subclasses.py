"""BatchNorms of users' own classes: folded where what they do besides is theirs to lose or keep."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.insertion.fusing import fuse
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization


class NormAct(nn.BatchNorm2d):
    """Normalizes, and goes on with children of its own."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[no-any-return]


class Swish(nn.Module):
    """Two calls that read the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Renamed(nn.BatchNorm2d):
    """Computes what its base does."""


class Louder(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Early(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


class Twice(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.act(x)  # type: ignore[no-any-return]


class Both(NormAct):
    def forward(self, x: Tensor) -> Any:
        y = nn.BatchNorm2d.forward(self, x)
        return self.act(y), y


class Net(nn.Module):
    """conv, norm, conv; a norm that returns a tuple has its tensors summed."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return self.last(sum(x) if isinstance(x, tuple) else x)  # type: ignore[no-any-return]


def net(norm: Callable[[], nn.BatchNorm2d]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Net(norm()).eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2.0)
    nn.init.uniform_(model.norm.weight, 0.5, 2.0)
    return model, torch.randn(2, 3, 9, 9)


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU, Swish, nn.Identity])
def test_a_norm_with_an_activation_of_its_own_leaves_the_activation(act: type[nn.Module]) -> None:
    model, x = net(lambda: NormAct(8, act()))
    want = model(x)
    report = fuse(model, example_inputs=x)
    assert [(row.name, row.why) for row in report.rows] == [("norm", "folded into first")]
    assert not any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    assert type(model.get_submodule("norm.act")) is act
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


def test_a_subclass_that_adds_nothing_is_gone() -> None:
    model, x = net(lambda: Renamed(8))
    want = model(x)
    assert fuse(model, example_inputs=x).folded == ("norm",)
    assert type(model.norm) is nn.Identity
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "norm",
    [
        lambda: Louder(8),
        lambda: Early(8),
        lambda: Twice(8, nn.ReLU()),
        lambda: Both(8, nn.ReLU()),
    ],
)
def test_a_norm_that_computes_anything_else_stays(norm: Callable[[], nn.BatchNorm2d]) -> None:
    model, x = net(norm)
    want = model(x)
    (row,) = fuse(model, example_inputs=x).rows
    assert row.action == "skip"
    kind = type(model.norm).__name__
    assert kind in row.why or row.why == "what comes before it is no layer"
    assert torch.equal(model(x), want)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_insert_sees_the_activation_behind_the_folded_norm(target: str) -> None:
    model, x = net(lambda: NormAct(8, nn.ReLU()))
    plain, _ = net(lambda: NormAct(8, nn.ReLU()))
    fuse(plain, example_inputs=x)
    report = insert(model, x, target=target)
    on = {row.name for row in report.select("quantize")}
    wanted = {"first.input", "first.weight", "last.input", "last.weight"}
    assert on == wanted | ({"last.output"} if target == "onnxruntime" else set())
    with disable_quantization(model):
        assert torch.equal(model(x), plain(x))
