"""Values to choose ranges for, and what a grid does to them, one by one, in torch."""

import numpy as np
import torch
from numpy.typing import NDArray

from qdq.numerics.affine import fake_quantize, qparams
from qdq.spec import QuantSpec

Floats = NDArray[np.float32]
KINDS = ["normal", "laplace", "relu", "uniform", "outlier", "lopsided", "negative"]


def sample(count: int, kind: str = "normal") -> Floats:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(count)
    values = {
        "normal": normal,
        "laplace": rng.laplace(size=count),
        "relu": np.maximum(normal, 0),
        "uniform": rng.uniform(-1, 1, count),
        "outlier": np.where(np.arange(count) == 7, 60.0, normal),
        "lopsided": np.where(normal < 0, normal / 20, normal),
        "negative": -np.abs(normal) - 0.5,
    }[kind]
    return values.astype(np.float32)


def spec_of(bits: int, *, symmetric: bool) -> QuantSpec:
    return QuantSpec(bits=bits, signed=symmetric, symmetric=symmetric)


def squared_error(
    values: Floats, low: float, high: float, *, bits: int = 8, symmetric: bool = False
) -> float:
    """What really quantizing each value costs, those beyond the end codes counted twice."""
    spec = spec_of(bits, symmetric=symmetric)
    grid = qparams(torch.tensor(low), torch.tensor(high), spec)
    lowest = float((spec.qmin - grid.zero_point.double()) * grid.scale.double())
    highest = float((spec.qmax - grid.zero_point.double()) * grid.scale.double())
    x = torch.from_numpy(values)
    moved = (fake_quantize(x, grid).double() - x.double()).square()
    clipped = (x < lowest) | (x > highest)
    return float(moved.sum() + moved[clipped].sum())
