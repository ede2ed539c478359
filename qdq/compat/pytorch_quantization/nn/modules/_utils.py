"""What the quantized modules share: default descriptors, and making their quantizers."""

import copy
import sys
from typing import Any, ClassVar, Literal, overload

from torch import Tensor, nn

from qdq.compat.pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from qdq.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_PER_TENSOR,
    QuantDescriptor,
)
from qdq.compat.pytorch_quantization.utils.quant_logging import logger


class _HasInputQuantizer:
    """What both mixins offer; user code tells them apart with isinstance."""

    default_quant_desc_input: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR
    _input_quantizer: TensorQuantizer

    @classmethod
    def set_default_quant_desc_input(cls, value: QuantDescriptor) -> None:
        """Of this class, for modules built from now on; ValueError if it is no descriptor."""
        cls.default_quant_desc_input = _own(value)

    @property
    def input_quantizer(self) -> TensorQuantizer:
        """The quantizer of the input."""
        return self._input_quantizer


class QuantInputMixin(_HasInputQuantizer):
    """Mixin of a module that quantizes its input only.

    `__init__` takes the descriptor from `pop_quant_desc_in_kwargs(cls, input_only=True, **kwargs)`
    and gives it to `init_quantizer`; `forward` calls `self._input_quantizer`.

    Attributes:
        default_quant_desc_input: of modules built from now on without one of their own.
    """

    def init_quantizer(self, quant_desc_input: QuantDescriptor) -> None:
        """Make `_input_quantizer`.

        Args:
            quant_desc_input: how the input shall be quantized.

        Raises:
            TypeError: called from another function than one named `__init__`.
            ValueError: the descriptor asks for codes instead of their values.
        """
        _refuse_other_callers(sys._getframe(1).f_code.co_name)
        self._input_quantizer = _made(self, "Input", quant_desc_input)


class QuantMixin(_HasInputQuantizer):
    """Mixin of a module that quantizes its input and its weight.

    `__init__` takes the descriptors from `pop_quant_desc_in_kwargs(cls, **kwargs)` and gives them
    to `init_quantizer`; `forward` calls `self._input_quantizer` and `self._weight_quantizer`.

    Attributes:
        default_quant_desc_input: of modules built from now on without one of their own.
        default_quant_desc_weight: likewise.
    """

    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_PER_TENSOR
    _weight_quantizer: TensorQuantizer

    @classmethod
    def set_default_quant_desc_weight(cls, value: QuantDescriptor) -> None:
        """Of this class, for modules built from now on; ValueError if it is no descriptor."""
        cls.default_quant_desc_weight = _own(value)

    def init_quantizer(
        self,
        quant_desc_input: QuantDescriptor,
        quant_desc_weight: QuantDescriptor,
        num_layers: int | None = None,
    ) -> None:
        """Make `_input_quantizer` and `_weight_quantizer`, or lists of them.

        Args:
            quant_desc_input: how the input shall be quantized.
            quant_desc_weight: how the weight shall be quantized.
            num_layers: make `_input_quantizers` and `_weight_quantizers` with so many each.

        Raises:
            TypeError: called from another function than one named `__init__`.
            ValueError: a descriptor asks for codes instead of their values.
        """
        _refuse_other_callers(sys._getframe(1).f_code.co_name)
        count = 1 if num_layers is None else num_layers
        inputs = [_made(self, "Input", quant_desc_input) for _ in range(count)]
        weights = [_made(self, "Weight", quant_desc_weight) for _ in range(count)]
        for quantizer in weights:
            quantizer.dynamic = True  # a weight is its own range: qdq.calibrate leaves it alone
        if num_layers is None:
            self._input_quantizer, self._weight_quantizer = inputs[0], weights[0]
        else:
            self._input_quantizers = nn.ModuleList(inputs)
            self._weight_quantizers = nn.ModuleList(weights)

    @property
    def weight_quantizer(self) -> TensorQuantizer:
        """The quantizer of the weight."""
        return self._weight_quantizer


@overload
def pop_quant_desc_in_kwargs(
    quant_cls: Any, input_only: Literal[True], **kwargs: Any
) -> QuantDescriptor: ...


@overload
def pop_quant_desc_in_kwargs(
    quant_cls: Any, input_only: Literal[False] = False, **kwargs: Any
) -> tuple[QuantDescriptor, QuantDescriptor]: ...


def pop_quant_desc_in_kwargs(
    quant_cls: Any, input_only: bool = False, **kwargs: Any
) -> QuantDescriptor | tuple[QuantDescriptor, QuantDescriptor]:
    """The descriptors among the keywords; those that are missing are the class's defaults.

    Args:
        quant_cls: a class with one of the mixins.
        input_only: there is no descriptor of a weight.
        **kwargs: `quant_desc_input` and `quant_desc_weight`.

    Returns:
        The descriptor of the input if `input_only`, else it and that of the weight.

    Raises:
        TypeError: keywords are left over.
    """
    of_input = kwargs.pop("quant_desc_input", None) or quant_cls.default_quant_desc_input
    of_weight = None
    if not input_only:
        of_weight = kwargs.pop("quant_desc_weight", None) or quant_cls.default_quant_desc_weight
    if kwargs:
        raise TypeError(f"Unused keys: {sorted(kwargs)}; {quant_cls.__name__} does not know them")
    return of_input if of_weight is None else (of_input, of_weight)


def quantized_weight(
    weight: Tensor, of_weight: TensorQuantizer, of_input: TensorQuantizer
) -> Tensor:
    """The weight as its layer computes with it: float while `qdq.calibrate` looks on."""
    quantized: Tensor = weight if of_input.observer is not None else of_weight(weight)
    return quantized


def _own(value: QuantDescriptor) -> QuantDescriptor:
    if not isinstance(value, QuantDescriptor):
        raise ValueError(f"{value!r} is not an instance of QuantDescriptor")
    return copy.deepcopy(value)


def _refuse_other_callers(name: str) -> None:
    if name != "__init__":
        raise TypeError(f"init_quantizer must be called from __init__, and was from {name}")


def _made(module: object, what: str, desc: QuantDescriptor) -> TensorQuantizer:
    kind = type(module).__name__
    if not desc.fake_quant:
        raise ValueError(f"Only fake quantization is supported! {kind} got {desc}")
    logger.info(
        "%s is %sfake quantized to %s bits in %s with axis %s!",
        what,
        "unsigned " if desc.unsigned else "",
        desc.num_bits,
        kind,
        desc.axis,
    )
    return TensorQuantizer(desc)
