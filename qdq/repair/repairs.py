"""The repairs by name, and how they tell signal from noise."""

import math
from collections.abc import Callable

from qdq.records.calibration import RepairRow
from qdq.registry import Registry

Repair = Callable[..., tuple[RepairRow, ...]]

REPAIRS: Registry[str, Repair] = Registry("repair")


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), both powers in the same unit.

    Returns:
        inf where there is no noise, -inf where there is nothing but noise.
    """
    if noise <= 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
