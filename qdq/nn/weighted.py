"""What every quantized layer with weights shares."""

from typing import Any, ClassVar

from torch import Tensor

from qdq.nn.operands import QuantOperands, step_of
from qdq.numerics.affine import QParams
from qdq.spec import QuantSpec


class QuantWeighted(QuantOperands):
    """Mixin of a layer with `weight` and `bias`, to stand before its float class.

    What the layer multiplies is fake-quantized first: `QuantOperands` says how.

    Args:
        *args: as for the float class.
        input_spec: grid of input and output; None: int8 symmetric.
        weight_spec: grid of the weight; None: int8 symmetric, a scale per output channel.
        **kwargs: as for the float class, `device` and `dtype` among them.

    Attributes:
        kind: what the op is called in the neutral op graph.
    """

    kind: ClassVar[str]
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        *args: Any,
        input_spec: QuantSpec | None = None,
        weight_spec: QuantSpec | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(input_spec, weight_spec)

    @property
    def bias_is_integer(self) -> bool:
        """Whether the bias is simulated as int32 now."""
        return self.bias is not None and self.simulates_bias

    def bias_step(self) -> Tensor:
        """() or (C,): scale of the int32 bias."""
        assert self.bias is not None
        return step_of(self.bias, self._input_quantizer.grid(), self.weight_grid())

    def weight_grid(self) -> QParams:
        """Grid of the weight as it is now, wide enough for the bias to fit its int32 codes."""
        of_input = self._input_quantizer.grid() if self._input_quantizer.on else None
        return self.grid_of(self.weight, self.bias, of_input)

    def quantized_operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(x, weight, bias) as the float layer shall compute with them."""
        return self.quantized(x, self.weight, self.bias)
