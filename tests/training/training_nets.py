"""Tiny nets on blobs, quantized to few bits, for the tests of training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate
from qdq.insertion.replacing import insert
from qdq.records.training import FinetuneReport
from qdq.targets import get
from qdq.training.finetuning import finetune

Batches = list[tuple[Tensor, Tensor]]


def blobs(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """(rows, 8) points around four centres, and whose they are."""
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(5))
    chance = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (rows,), generator=chance)
    return centres[target] + 0.5 * torch.randn(rows, 8, generator=chance), target


X, Y = blobs(256, 1)
TRAIN: Batches = list(zip(X.split(32), Y.split(32), strict=True))
VAL: Batches = [blobs(256, 2)]


def linear_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def norm_net() -> nn.Sequential:
    """Its BatchNorm stays: a ReLU stands before it."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 4))


def trained(build: Callable[[], nn.Sequential] = linear_net) -> nn.Sequential:
    """A float net, in eval mode."""
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(8):
        for x, y in TRAIN:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return net.eval()


def quantized(
    build: Callable[[], nn.Sequential] = linear_net, *, bits: int = 2, target: str = "tensorrt"
) -> nn.Sequential:
    """The same, inserted and calibrated, with weights of so many bits."""
    net = trained(build)
    placed = get(target)
    weight = type(placed.weight)(bits=bits, narrow=True)
    insert(net, X[:2], target=get(target, weight=weight))
    calibrate(net, TRAIN, progress=False)
    return net


def accuracy(net: nn.Module) -> float:
    with torch.no_grad():
        return float((net(VAL[0][0]).argmax(1) == VAL[0][1]).float().mean())


def values(net: nn.Module) -> dict[str, Tensor]:
    """Copies of all that a state dict holds."""
    return {name: each.detach().clone() for name, each in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are no longer bit-equal."""
    after = net.state_dict()
    assert set(after) == set(before)
    return {name for name, each in before.items() if not torch.equal(each, after[name])}


def tune(net: nn.Module, train: Any = TRAIN, val: Any = None, **changes: Any) -> FinetuneReport:
    """finetune, with the settings that most tests share."""
    usual: dict[str, Any] = {"loss": "cross_entropy", "epochs": 1, "lr": 0.01, "progress": False}
    return finetune(net, train, val, **usual | changes)


def flags(net: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in net.parameters()]
