"""Quantized linear layers."""

from torch import Tensor, nn
from torch.nn import functional as F

from qdq.nn.twins import register
from qdq.nn.weighted import QuantWeighted


@register(nn.Linear)
class QuantLinear(QuantWeighted, nn.Linear):  # type: ignore[misc]  # torch says its bias is never None
    """`nn.Linear` on a fake-quantized input and weight; arguments: `QuantWeighted`."""

    kind = "linear"

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), as `nn.Linear`."""
        x, weight, bias = self.quantized_operands(input)
        return self._output_quantizer(F.linear(x, weight, bias))  # type: ignore[no-any-return]
