"""How the quantized classes are built: the float class's arguments, and descriptors."""

import inspect
from functools import cache
from typing import Any

from torch import Tensor, nn

from qdq.compat.pytorch_quantization.nn.modules._utils import (
    QuantInputMixin,
    QuantMixin,
    pop_quant_desc_in_kwargs,
    quantized_weight,
)


class QuantInputLayer(QuantInputMixin, nn.Module):
    """A module whose input is quantized, to stand before its float class.

    Args:
        *args: as for the float class.
        **kwargs: as for the float class, and `quant_desc_input`.

    Raises:
        TypeError: a keyword that neither the float class nor this one knows.
        ValueError: a descriptor asks for codes instead of their values.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        known, rest = _divided(type(self), kwargs)
        desc = pop_quant_desc_in_kwargs(type(self), input_only=True, **rest)
        super().__init__(*args, **known)
        self.init_quantizer(desc)

    def forward(self, input: Tensor) -> Any:
        """As the float class, of the quantized input."""
        return super().forward(self._input_quantizer(input))


class QuantLayer(QuantMixin, nn.Module):
    """A module whose input and weight are quantized, to stand before its float class.

    Args:
        *args: as for the float class.
        **kwargs: as for the float class, `quant_desc_input` and `quant_desc_weight`.

    Raises:
        TypeError: a keyword that neither the float class nor this one knows.
        ValueError: a descriptor asks for codes instead of their values.
    """

    weight: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        known, rest = _divided(type(self), kwargs)
        of_input, of_weight = pop_quant_desc_in_kwargs(type(self), **rest)
        super().__init__(*args, **known)
        self.init_quantizer(of_input, of_weight, num_layers=self._pairs())

    def quantized_operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as the layer shall compute with them."""
        of_input = self._input_quantizer
        return of_input(x), quantized_weight(self.weight, self._weight_quantizer, of_input)

    def _pairs(self) -> int | None:
        """How many pairs of quantizers stand in lists; None: a single one, outside of any list."""
        return None


def _divided(kind: type, keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that torch's part of the class knows, and the others."""
    names = _float_arguments(kind)
    known = {name: value for name, value in keywords.items() if name in names}
    return known, {name: value for name, value in keywords.items() if name not in names}


@cache
def _float_arguments(kind: type) -> frozenset[str]:
    """Of the constructors of the torch classes it derives from: nn.LSTM's own says only *args."""
    constructors = [vars(base).get("__init__") for base in kind.__mro__ if _is_torchs(base)]
    return frozenset(
        name
        for constructor in constructors
        if constructor is not None
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    )


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.modules.")
