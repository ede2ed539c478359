"""Ranges, weights and biases mended for quantization without training.

`REPAIRS` has every repair by name. Where several run, equalization and migration come first, for
they move float weights; then calibration and propagation, which choose ranges; then rounding, which
needs the ranges of its inputs; then bias correction, which needs the weights as they will be.
"""

from qdq.records.calibration import RepairRow
from qdq.repair.bias_correction import correct_biases
from qdq.repair.equalization import equalize_channels
from qdq.repair.migration import migrate_outliers
from qdq.repair.propagation import refine_ranges
from qdq.repair.repairs import REPAIRS
from qdq.repair.rounding import round_weights

__all__ = [
    "REPAIRS",
    "RepairRow",
    "correct_biases",
    "equalize_channels",
    "migrate_outliers",
    "refine_ranges",
    "round_weights",
]
