"""Quantized pooling layers: their input is quantized, and that is all they multiply.

Only average pools are registered: max pooling commutes with quantization (T14, O12), so `insert`
has no reason to put a pair in front of it. `QuantMaxPool1d..3d` are there to be written by hand.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.twins import register
from qdq.spec import QuantSpec


class QuantPool(nn.Module):
    """Mixin of a pooling layer, to stand before its float class: its input is fake-quantized.

    Args:
        *args: as for the float class.
        input_spec: grid of the input; None: int8 symmetric.
        **kwargs: as for the float class.

    Attributes:
        kind: what the op is called in the neutral op graph.
    """

    kind: ClassVar[str]
    _input_quantizer: TensorQuantizer

    def __init__(self, *args: Any, input_spec: QuantSpec | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(input_spec)

    def add_quantizers(self, input_spec: QuantSpec | None = None) -> None:
        """Give the layer its quantizer; on the output there is none.

        Args:
            input_spec: grid of the input; None: int8 symmetric.
        """
        self._input_quantizer = TensorQuantizer(input_spec)

    def forward(self, input: Tensor) -> Any:
        """(N, C, ...) or (C, ...), as the float class; a max pool may give indices too."""
        return super().forward(self._input_quantizer(input))


class _QuantAvgPool(QuantPool):
    kind = "avg_pool"


class _QuantMaxPool(QuantPool):
    kind = "max_pool"


@register(nn.AvgPool1d)
class QuantAvgPool1d(_QuantAvgPool, nn.AvgPool1d):
    """`nn.AvgPool1d` of a fake-quantized input; arguments: `QuantPool`."""


@register(nn.AvgPool2d)
class QuantAvgPool2d(_QuantAvgPool, nn.AvgPool2d):
    """`nn.AvgPool2d` of a fake-quantized input; arguments: `QuantPool`."""


@register(nn.AvgPool3d)
class QuantAvgPool3d(_QuantAvgPool, nn.AvgPool3d):
    """`nn.AvgPool3d` of a fake-quantized input; arguments: `QuantPool`."""


@register(nn.AdaptiveAvgPool1d)
class QuantAdaptiveAvgPool1d(_QuantAvgPool, nn.AdaptiveAvgPool1d):
    """`nn.AdaptiveAvgPool1d` of a fake-quantized input; arguments: `QuantPool`."""


@register(nn.AdaptiveAvgPool2d)
class QuantAdaptiveAvgPool2d(_QuantAvgPool, nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d` of a fake-quantized input; arguments: `QuantPool`."""


@register(nn.AdaptiveAvgPool3d)
class QuantAdaptiveAvgPool3d(_QuantAvgPool, nn.AdaptiveAvgPool3d):
    """`nn.AdaptiveAvgPool3d` of a fake-quantized input; arguments: `QuantPool`."""


class QuantMaxPool1d(_QuantMaxPool, nn.MaxPool1d):
    """`nn.MaxPool1d` of a fake-quantized input; arguments: `QuantPool`."""


class QuantMaxPool2d(_QuantMaxPool, nn.MaxPool2d):
    """`nn.MaxPool2d` of a fake-quantized input; arguments: `QuantPool`."""


class QuantMaxPool3d(_QuantMaxPool, nn.MaxPool3d):
    """`nn.MaxPool3d` of a fake-quantized input; arguments: `QuantPool`."""
