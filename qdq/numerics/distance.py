"""How far two outputs are apart. numpy only."""

import math

import numpy as np
from numpy.typing import NDArray


def sqnr(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Signal-to-quantization-noise ratio in dB: 10 log10(sum ref^2 / sum (ref - other)^2).

    Args:
        reference: any shape.
        other: same shape.

    Returns:
        dB; +inf where the two are equal, -inf where the reference is zero and they are not.
    """
    wide = reference.astype(np.float64)
    noise = float(np.sum((wide - other.astype(np.float64)) ** 2))
    signal = float(np.sum(wide**2))
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def agreement(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Share of positions whose largest class score is the same one (top-1).

    Args:
        reference: (N, C, ...) scores, classes on axis 1 as in torch's cross-entropy.
        other: same shape.

    Returns:
        0..1.
    """
    return float(np.mean(reference.argmax(axis=1) == other.argmax(axis=1)))
