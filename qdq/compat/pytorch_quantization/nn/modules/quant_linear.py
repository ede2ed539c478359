"""Quantized linear layers."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from qdq.compat.pytorch_quantization.nn.modules._layers import QuantLayer
from qdq.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QuantDescriptor,
)

__all__ = ["Linear", "QuantLinear"]


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return F.linear(*self.quantized_operands(input), self.bias)


Linear = QuantLinear
