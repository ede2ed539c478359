"""The repairs by name, and the row that each leaves for a layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from qdq.registry import Registry


@dataclass(frozen=True)
class RepairRow:
    """What one repair did to one layer.

    Attributes:
        layer: its name.
        method: name of the repair.
        before_db: signal-to-quantization-noise ratio of what the layer computes, dB; the repair
            says which noise it counts. inf where there is none.
        after_db: the same, afterwards.
    """

    layer: str
    method: str
    before_db: float
    after_db: float


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
