"""Quantized pooling layers: their input is quantized, and that is all they multiply.

Only average pools are registered: max pooling commutes with quantization (T14, O12), so `insert`
has no reason to put a pair in front of it. `QuantMaxPool1d..3d` are there to be written by hand.
"""

from torch import nn

from qdq.nn.twins import register
from qdq.nn.unary import QuantUnary


class _QuantAvgPool(QuantUnary):
    kind = "avg_pool"


class _QuantMaxPool(QuantUnary):
    kind = "max_pool"


@register(nn.AvgPool1d)
class QuantAvgPool1d(_QuantAvgPool, nn.AvgPool1d):
    """`nn.AvgPool1d` of a fake-quantized input; arguments: `QuantUnary`."""


@register(nn.AvgPool2d)
class QuantAvgPool2d(_QuantAvgPool, nn.AvgPool2d):
    """`nn.AvgPool2d` of a fake-quantized input; arguments: `QuantUnary`."""


@register(nn.AvgPool3d)
class QuantAvgPool3d(_QuantAvgPool, nn.AvgPool3d):
    """`nn.AvgPool3d` of a fake-quantized input; arguments: `QuantUnary`."""


@register(nn.AdaptiveAvgPool1d)
class QuantAdaptiveAvgPool1d(_QuantAvgPool, nn.AdaptiveAvgPool1d):
    """`nn.AdaptiveAvgPool1d` of a fake-quantized input; arguments: `QuantUnary`."""


@register(nn.AdaptiveAvgPool2d)
class QuantAdaptiveAvgPool2d(_QuantAvgPool, nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d` of a fake-quantized input; arguments: `QuantUnary`."""


@register(nn.AdaptiveAvgPool3d)
class QuantAdaptiveAvgPool3d(_QuantAvgPool, nn.AdaptiveAvgPool3d):
    """`nn.AdaptiveAvgPool3d` of a fake-quantized input; arguments: `QuantUnary`."""


class QuantMaxPool1d(_QuantMaxPool, nn.MaxPool1d):
    """`nn.MaxPool1d` of a fake-quantized input; arguments: `QuantUnary`."""


class QuantMaxPool2d(_QuantMaxPool, nn.MaxPool2d):
    """`nn.MaxPool2d` of a fake-quantized input; arguments: `QuantUnary`."""


class QuantMaxPool3d(_QuantMaxPool, nn.MaxPool3d):
    """`nn.MaxPool3d` of a fake-quantized input; arguments: `QuantUnary`."""
