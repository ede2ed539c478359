"""Quantized linear layers."""

from torch import Tensor, nn
from torch.nn import functional as F

from qdq.nn.twins import register
from qdq.nn.weighted import QuantWeighted
from qdq.spec import QuantSpec


@register(nn.Linear)
class QuantLinear(QuantWeighted, nn.Linear):  # type: ignore[misc]  # torch says its bias is never None
    """`nn.Linear` on a fake-quantized input and weight; arguments: `QuantWeighted`."""

    kind = "linear"

    def add_quantizers(
        self, input_spec: QuantSpec | None = None, weight_spec: QuantSpec | None = None
    ) -> None:
        """As of `QuantWeighted`."""
        super().add_quantizers(input_spec, weight_spec)
        self.register_forward_pre_hook(_called)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), as `nn.Linear`."""
        x, weight, bias = self.quantized_operands(input)
        return self._output_quantizer(F.linear(x, weight, bias))  # type: ignore[no-any-return]


def _called(layer: nn.Module, args: object) -> None:
    """Does nothing, as a hook: with one, a layer is called, whatever layer of torch holds it.

    The fused forward of `nn.TransformerEncoderLayer` takes the weights of its layers and leaves out
    their quantizers; it stands back where one of them has a hook.
    """
