"""Which quantized class takes the place of which float class."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from torch import nn

from qdq.errors import RegistryError
from qdq.registry import Registry

Quantized = TypeVar("Quantized", bound=type[nn.Module])
Refusal: TypeAlias = Callable[[nn.Module], str]

TWINS: Registry[type[nn.Module], type[nn.Module]] = Registry("quantized module")
REFUSALS: dict[type[nn.Module], Refusal] = {}


def register(
    float_class: type[nn.Module], *, unless: Refusal | None = None
) -> Callable[[Quantized], Quantized]:
    """Class decorator: `insert` turns each `float_class` into the class below.

    The class must derive from `float_class`, offer `add_quantizers()`, which gives a float layer
    that became this class its quantizers, and name its `kind`: "conv", "linear" or "add" where a
    runtime treats it as one of those, else a name of its own. A layer with one weight gets all
    that from `QuantWeighted`:

    >>> import torch, qdq
    >>> class Scaled(torch.nn.Linear):
    ...     def forward(self, input):
    ...         return super().forward(input) * 0.5
    >>> @qdq.register(Scaled)
    ... class QuantScaled(qdq.nn.QuantWeighted, Scaled):
    ...     kind = "linear"
    ...     def forward(self, input):
    ...         x, weight, bias = self.quantized_operands(input)
    ...         y = torch.nn.functional.linear(x, weight, bias)
    ...         return self._output_quantizer(y) * 0.5
    >>> model = torch.nn.Sequential(Scaled(3, 2)).eval()
    >>> report = qdq.insert(model, torch.zeros(1, 3))
    >>> type(model[0]).__name__, sorted(qdq.quantizers(model))
    ('QuantScaled', ['0.input', '0.output', '0.weight'])

    Another one names its quantizers `_input_quantizer` and `_output_quantizer`, or
    `_input_quantizers`, an `nn.ModuleList`: `qdq.quantizers` finds them as the sites `input`,
    `output` and `input_0`.

    Args:
        float_class: exactly this type is replaced, never a subclass of it.
        unless: tells why a layer of this type has to stay float all the same, with the value of
            the option that the class below cannot quantize; "" for a layer that need not.

    Raises:
        RegistryError: the class does not fit, or `float_class` has a twin already.
    """

    def keep(quantized: Quantized) -> Quantized:
        for missing in ("add_quantizers", "kind"):
            if not hasattr(quantized, missing):
                raise RegistryError(
                    f"{quantized.__qualname__} has no `{missing}`",
                    fix="derive from qdq.nn.QuantWeighted, or write it: see qdq/nn/linear.py",
                )
        if not issubclass(quantized, float_class):
            raise RegistryError(
                f"{quantized.__qualname__} is no {float_class.__qualname__}",
                fix=f"class {quantized.__qualname__}(QuantWeighted, {float_class.__qualname__})",
            )
        TWINS.add(float_class)(quantized)
        if unless is not None:
            REFUSALS[float_class] = unless
        return quantized

    return keep


def why_float(layer: nn.Module) -> str:
    """Why a layer whose type has a twin has to stay float; empty if it need not."""
    refusal = REFUSALS.get(type(layer))
    return "" if refusal is None else refusal(layer)
