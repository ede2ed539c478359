"""Least squares with no variable below zero. Pure."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def nonnegative_least_squares(a: Floats, b: Floats) -> Floats:
    """X >= 0 with the least |a x - b|.

    Args:
        a: (m, n).
        b: (m,).

    Returns:
        (n,). Lawson and Hanson 1974, "Solving Least Squares Problems", ch. 23: a variable is let
        go where the residual pulls it up, and held at 0 again where the solution would fall below.
    """
    scale = np.linalg.norm(a, axis=0)
    a = a / np.where(scale > 0, scale, 1.0)
    x, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(a.T @ b).max()))
    for _ in range(3 * a.shape[1]):
        pull = np.where(free, -np.inf, a.T @ (b - a @ x))
        if pull.max() <= tolerance:
            break
        free[pull.argmax()] = True
        while True:
            best = np.zeros_like(x)
            best[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                break
            step = np.min(x[below] / (x[below] - best[below]))
            x += step * (best - x)
            free &= x > 1e-14
            x[~free] = 0.0
        x = best
    return x / np.where(scale > 0, scale, 1.0)
