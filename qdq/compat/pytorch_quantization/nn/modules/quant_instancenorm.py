"""Quantized instance norms: their input is quantized."""

from torch import nn

from qdq.compat.pytorch_quantization.nn.modules._layers import QuantInputLayer

__all__ = ["QuantInstanceNorm1d", "QuantInstanceNorm2d", "QuantInstanceNorm3d"]


class QuantInstanceNorm1d(QuantInputLayer, nn.InstanceNorm1d):
    """`nn.InstanceNorm1d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantInstanceNorm2d(QuantInputLayer, nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantInstanceNorm3d(QuantInputLayer, nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` of a quantized input; arguments: `QuantInputLayer`."""
