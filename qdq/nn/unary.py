"""What every quantized layer without weights shares: its input is quantized."""

from typing import Any, ClassVar

from torch import Tensor, nn

from qdq.nn.quantizer import TensorQuantizer
from qdq.spec import QuantSpec


class QuantUnary(nn.Module):
    """Mixin of a layer without weights, to stand before its float class.

    Its input is fake-quantized. There is no quantizer on the output: who reads that has one, and
    where something float reads it, rounding it would win nothing.

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
        """Give the layer its quantizer.

        Args:
            input_spec: grid of the input; None: int8 symmetric.
        """
        self._input_quantizer = TensorQuantizer(input_spec)

    def forward(self, input: Tensor) -> Any:
        """(N, C, ...) or (C, ...), as the float class; a max pool may give indices too."""
        return super().forward(self._input_quantizer(input))
