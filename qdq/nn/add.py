"""Quantized sums, products and joins: modules to write into a model where branches meet."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor, nn

from qdq.errors import InputError, SpecError
from qdq.nn.quantizer import TensorQuantizer
from qdq.spec import QuantSpec


class QuantJoin(nn.Module, ABC):
    """What becomes of several tensors, each fake-quantized on its way in.

    Args:
        inputs: how many tensors there will be, >= 2.
        shared: one quantizer for all inputs, so that their codes have one scale; otherwise each
            input has its own.
        spec: grid of inputs and output; None: int8 symmetric.

    Attributes:
        kind: what the op is called in the neutral op graph.

    Raises:
        SpecError: fewer than two inputs.
    """

    kind: ClassVar[str]

    def __init__(
        self, inputs: int = 2, *, shared: bool = False, spec: QuantSpec | None = None
    ) -> None:
        super().__init__()
        if inputs < 2:
            raise SpecError(
                f"{type(self).__name__} of {inputs} inputs", fix="pass inputs=2 or more"
            )
        self.inputs = inputs
        self.shared = shared
        if shared:
            self._input_quantizer = TensorQuantizer(spec)
        else:
            self._input_quantizers = nn.ModuleList(TensorQuantizer(spec) for _ in range(inputs))
        self._output_quantizer = TensorQuantizer(spec)
        self._output_quantizer.active = False

    @abstractmethod
    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The float operation."""

    def forward(self, *tensors: Tensor) -> Tensor:
        """The float operation on `inputs` fake-quantized tensors.

        Raises:
            InputError: another number of tensors.
        """
        if len(tensors) != self.inputs:
            raise InputError(
                f"this {type(self).__name__} was made for {self.inputs} tensors and got "
                f"{len(tensors)}",
                at=self._output_quantizer.site,
                fix=f"pass {self.inputs}, or build one for as many as there are",
            )
        quantizers = (
            [self._input_quantizer] * self.inputs if self.shared else self._input_quantizers
        )
        quantized = [quantizer(x) for quantizer, x in zip(quantizers, tensors, strict=True)]
        return self._output_quantizer(self.join(quantized))  # type: ignore[no-any-return]


class QuantMultiAdd(QuantJoin):
    """Sum of any number of tensors that broadcast against each other; arguments: `QuantJoin`."""

    kind = "add"

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sum from left to right."""
        return reduce(lambda a, b: a + b, tensors)


class QuantAdd(QuantMultiAdd):
    """Sum of two tensors: a residual connection.

    Args:
        shared: one quantizer for both, see `QuantJoin`.
        spec: grid of inputs and output; None: int8 symmetric.
    """

    def __init__(self, *, shared: bool = False, spec: QuantSpec | None = None) -> None:
        super().__init__(2, shared=shared, spec=spec)


class QuantMul(QuantJoin):
    """Product of two tensors, element by element: a gate.

    Args:
        spec: grid of inputs and output; None: int8 symmetric.
    """

    kind = "mul"

    def __init__(self, *, spec: QuantSpec | None = None) -> None:
        super().__init__(2, spec=spec)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Element by element."""
        return tensors[0] * tensors[1]


class QuantMatMul(QuantJoin):
    """Matrix product of two tensors that both depend on the input: (..., L, K) @ (..., K, N).

    Args:
        spec: grid of inputs and output; None: int8 symmetric.
    """

    kind = "matmul"

    def __init__(self, *, spec: QuantSpec | None = None) -> None:
        super().__init__(2, spec=spec)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """`torch.matmul`."""
        return tensors[0] @ tensors[1]


class QuantConcat(QuantJoin):
    """Tensors one after the other along `dim`.

    Args:
        inputs: how many, >= 2.
        dim: along which they are joined.
        shared: one scale for all inputs, see `QuantJoin`.
        spec: grid of inputs and output; None: int8 symmetric.
    """

    kind = "concat"

    def __init__(
        self,
        inputs: int = 2,
        *,
        dim: int = 1,
        shared: bool = False,
        spec: QuantSpec | None = None,
    ) -> None:
        super().__init__(inputs, shared=shared, spec=spec)
        self.dim = dim

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """`torch.cat`."""
        return torch.cat(tuple(tensors), self.dim)
