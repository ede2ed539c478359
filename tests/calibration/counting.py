"""A tiny net with quantizers, its batches, and what its sites see by torch's own hooks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

import qdq
from qdq.calibration.files import Histograms
from qdq.numerics.histogram import from_values, merge


def net(seed: int = 0) -> nn.Module:
    """Two linear layers with sites `0.input` and `2.input`."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    qdq.insert(model, torch.zeros(1, 4))
    return model


def batches(count: int) -> list[Tensor]:
    """Of 1 to 4 rows, all different."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(1 + index % 4, 4, generator=generator) for index in range(count)]


def counted(
    model: nn.Module, data: Iterable[Tensor], start: Histograms | None = None
) -> Histograms:
    """What enters each linear layer, after what was counted before."""
    found = dict(start or {})

    def note(site: str, x: Tensor) -> None:
        hist = from_values(x.detach().numpy())
        found[site] = merge(found[site], hist) if site in found else hist

    layers = {f"{name}.input": each for name, each in model.named_children() if name != "1"}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, site=site: note(site, args[0]))
        for site, layer in layers.items()
    ]
    with qdq.disable_quantization(model), torch.no_grad():
        for batch in data:
            model(batch)
    for handle in handles:
        handle.remove()
    return found
