"""Quantized convolutions."""

from typing import Any

from torch import Tensor, nn

from qdq.nn.twins import register
from qdq.nn.weighted import QuantWeighted
from qdq.spec import QuantSpec


@register(nn.Conv2d)
class QuantConv2d(QuantWeighted, nn.Conv2d):
    """`nn.Conv2d` on a fake-quantized input and weight.

    Args:
        *args: as for `nn.Conv2d`.
        input_spec: grid of input and output; None: int8 symmetric.
        weight_spec: grid of the weight; None: int8 symmetric, a scale per output channel.
        **kwargs: as for `nn.Conv2d`.
    """

    kind = "conv"

    def __init__(
        self,
        *args: Any,
        input_spec: QuantSpec | None = None,
        weight_spec: QuantSpec | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(input_spec, weight_spec)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, H, W) or (C_in, H, W), as `nn.Conv2d`."""
        x, weight, bias = self.quantized_operands(input)
        return self._output_quantizer(self._conv_forward(x, weight, bias))  # type: ignore[no-any-return]
