"""Nets of one call, its sites found in a recorded forward, and grids rounded apart in numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qdq.insertion.policies import Policy
from qdq.insertion.recording import record
from qdq.insertion.replacing import attach
from qdq.insertion.selecting import select
from qdq.insertion.switches import quantizers
from qdq.nn.calls import CallSite

RANGES = (1.5, 2.5, 0.75, 1.0)  # of the first, second, ... tensor that comes in


class Calling(nn.Module):
    """A net whose forward is given to it, with these parameters."""

    def __init__(self, run: Callable[..., Any], **parameters: Tensor) -> None:
        super().__init__()
        self.run = run
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.run(*inputs, **keywords, **dict(self.named_parameters(recurse=False)))


def sited(model: nn.Module, *inputs: Any) -> tuple[CallSite, ...]:
    """Quantize what a recorded forward calls, on fixed ranges; the sites it has now."""
    graph = record(model.eval(), inputs)
    found = select(model, graph, Policy((), (), {}, dict(model.named_modules()), graph))
    attach(model, found.layers, found.calls, graph)
    for site, quantizer in quantizers(model).items():
        role, _, index = site.rpartition(".")[2].partition("_")
        if role == "input":
            quantizer.set_range(None, RANGES[int(index or 0)])
    return found.calls


def on_grid(x: Tensor, amax: float) -> Tensor:
    """Int8 symmetric, clipped at `amax`."""
    scale = np.float32(amax) / np.float32(127)
    codes = np.clip(np.rint(x.detach().numpy() / scale), -128, 127)
    return torch.from_numpy(codes * scale)


def channels_on_grid(weight: Tensor, axis: int) -> Tensor:
    """Int8 symmetric, -127 to 127, each channel along `axis` by its own largest value."""
    w = weight.detach().numpy()
    others = tuple(each for each in range(w.ndim) if each != axis)
    scale = np.abs(w).max(axis=others, keepdims=True) / np.float32(127)
    return torch.from_numpy(np.clip(np.rint(w / scale), -127, 127) * scale)


def bias_on_grid(bias: Tensor, weight: Tensor, axis: int, amax: float) -> Tensor:
    """Int32 codes of the scale of the accumulator; one weight scale per entry of the bias."""
    w = np.moveaxis(weight.detach().numpy(), axis, 0)
    step = (
        np.float32(amax)
        / np.float32(127)
        * (np.abs(w.reshape(len(w), -1)).max(1) / np.float32(127))
    )
    return torch.from_numpy(np.rint(bias.detach().numpy() / step) * step)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
