"""Calibrators: they collect tensors, then name the amax of a quantizer."""

from qdq.compat.pytorch_quantization.calib.histogram import HistogramCalibrator
from qdq.compat.pytorch_quantization.calib.max import MaxCalibrator
from qdq.compat.pytorch_quantization.calib.weights import calibrate_weights

__all__ = ["HistogramCalibrator", "MaxCalibrator", "calibrate_weights"]
