"""Which quantized class takes the place of which float class."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from qdq.errors import RegistryError
from qdq.registry import Registry

Quantized = TypeVar("Quantized", bound=type[nn.Module])
TWINS: Registry[type[nn.Module], type[nn.Module]] = Registry("quantized module")


def register(float_class: type[nn.Module]) -> Callable[[Quantized], Quantized]:
    """Class decorator: `insert` turns each `float_class` into the class below.

    The class must derive from `float_class`, offer `add_quantizers()`, which gives a float layer
    that became this class its quantizers, and name its `kind` ("conv", "linear", "add").

    Args:
        float_class: exactly this type is replaced, never a subclass of it.

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
        return TWINS.add(float_class)(quantized)  # type: ignore[return-value]

    return keep
