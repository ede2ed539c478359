"""Nets whose calls are sites, and what their sums are on the grids of two fixed ranges."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.nn.calls import CallSite, QuantCall
from qdq.nn.callsites import follow_calls
from qdq.nn.holders import add_call_site
from qdq.targets import get


class Callsite(nn.Module):
    """A net whose forward is given to it."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


class ResidualBlock(nn.Module):
    """A convolution and a skip; `hurt` is called in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.hurt: Callable[[], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.hurt is not None:
            self.hurt()
        return F.relu(y + x)


class ResidualNet(nn.Module):
    """Two blocks and an addition of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ResidualBlock(), ResidualBlock()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return self.conv(x) + x


A = torch.linspace(-2.0, 1.7, 8).reshape(2, 4)
B = torch.linspace(0.9, -1.3, 8).reshape(2, 4)
IMAGES = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1))
FLOAT_SUM = (A + B).numpy()


def on_grid(x: Any, amax: float) -> np.ndarray:
    scale = np.float32(amax) / np.float32(127)
    return np.clip(np.rint(np.asarray(x) / scale), -128, 127) * scale


QUANTIZED_SUM = on_grid(A, 2.0) + on_grid(B, 1.0)


def ranged(call: QuantCall) -> QuantCall:
    """Ranges 2 and 1 for its two inputs."""
    for quantizer, amax in zip(call._input_quantizers, (2.0, 1.0), strict=True):
        quantizer.set_range(None, amax)  # type: ignore[operator]
    return call


def addition(name: str) -> CallSite:
    """The site of `a + b`."""
    return CallSite(name, "add", 2)


def with_sites(run: Callable[..., Any], *names: str, **layers: nn.Module) -> Callsite:
    """A net of these layers whose additions of these names are quantized."""
    model = Callsite(run, **layers)
    for name in names:
        ranged(add_call_site(model, addition(name)))
    follow_calls(model)
    return model


def prepared(model: nn.Module | None = None, target: str = "onnxruntime") -> nn.Module:
    """Inserted for `target`, however small its layers, and calibrated on IMAGES."""
    torch.manual_seed(0)
    model = (ResidualNet() if model is None else model).eval()
    qdq.insert(model, IMAGES, target=get(target, skip_small=False))
    qdq.calibrate(model, [IMAGES], method="max", progress=False)
    return model
