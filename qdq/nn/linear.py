"""Quantized linear layers."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from qdq.nn.twins import register
from qdq.nn.weighted import QuantWeighted
from qdq.spec import QuantSpec


@register(nn.Linear)
class QuantLinear(QuantWeighted, nn.Linear):  # type: ignore[misc]  # torch says its bias is never None
    """`nn.Linear` on a fake-quantized input and weight.

    Args:
        *args: as for `nn.Linear`.
        input_spec: grid of input and output; None: int8 symmetric.
        weight_spec: grid of the weight; None: int8 symmetric, a scale per output feature.
        **kwargs: as for `nn.Linear`.
    """

    kind = "linear"

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
        """(..., in_features) -> (..., out_features), as `nn.Linear`."""
        x, weight, bias = self.quantized_operands(input)
        return self._output_quantizer(F.linear(x, weight, bias))  # type: ignore[no-any-return]
