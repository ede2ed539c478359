"""Range methods: histogram -> (amin, amax), the range a quantizer will hold. Pure; numpy only.

A method is added here, by decorator, and is then known to calibrate() and to recipes.
"""

from collections.abc import Callable
from typing import TypeAlias

from qdq.numerics.histogram import Histogram, lower_tail, upper_tail
from qdq.registry import Registry

Method: TypeAlias = Callable[[Histogram], tuple[float, float]]
METHODS: Registry[str, Method] = Registry("calibration method")

# Share of the values that each tail may lose under "percentile": 0.001 %.
TAIL = 1e-5


@METHODS.add("max")
def full_range(hist: Histogram) -> tuple[float, float]:
    """Everything that was seen (Wu et al. 2020, arXiv:2004.09602, sec. 3.3, "Max")."""
    return hist.amin, hist.amax


@METHODS.add("percentile")
def percentile_range(hist: Histogram) -> tuple[float, float]:
    """All but 0.001 % of the values on each side of 0 (ibid., "Percentile", at 99.999 %)."""
    return lower_tail(hist, TAIL), upper_tail(hist, TAIL)
