"""Quantized pooling layers: their input is quantized."""

from torch import nn

from qdq.compat.pytorch_quantization.nn.modules._layers import QuantInputLayer

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "QuantAdaptiveAvgPool1d",
    "QuantAdaptiveAvgPool2d",
    "QuantAdaptiveAvgPool3d",
    "QuantAvgPool1d",
    "QuantAvgPool2d",
    "QuantAvgPool3d",
    "QuantMaxPool1d",
    "QuantMaxPool2d",
    "QuantMaxPool3d",
]


class QuantMaxPool1d(QuantInputLayer, nn.MaxPool1d):
    """`nn.MaxPool1d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantMaxPool2d(QuantInputLayer, nn.MaxPool2d):
    """`nn.MaxPool2d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantMaxPool3d(QuantInputLayer, nn.MaxPool3d):
    """`nn.MaxPool3d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantAvgPool1d(QuantInputLayer, nn.AvgPool1d):
    """`nn.AvgPool1d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantAvgPool2d(QuantInputLayer, nn.AvgPool2d):
    """`nn.AvgPool2d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantAvgPool3d(QuantInputLayer, nn.AvgPool3d):
    """`nn.AvgPool3d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantAdaptiveAvgPool1d(QuantInputLayer, nn.AdaptiveAvgPool1d):
    """`nn.AdaptiveAvgPool1d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantAdaptiveAvgPool2d(QuantInputLayer, nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d` of a quantized input; arguments: `QuantInputLayer`."""


class QuantAdaptiveAvgPool3d(QuantInputLayer, nn.AdaptiveAvgPool3d):
    """`nn.AdaptiveAvgPool3d` of a quantized input; arguments: `QuantInputLayer`."""


MaxPool1d = QuantMaxPool1d
MaxPool2d = QuantMaxPool2d
MaxPool3d = QuantMaxPool3d
AvgPool1d = QuantAvgPool1d
AvgPool2d = QuantAvgPool2d
AvgPool3d = QuantAvgPool3d
AdaptiveAvgPool1d = QuantAdaptiveAvgPool1d
AdaptiveAvgPool2d = QuantAdaptiveAvgPool2d
AdaptiveAvgPool3d = QuantAdaptiveAvgPool3d
