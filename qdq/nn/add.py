"""Quantized additions: modules to write into a model where branches meet."""

from functools import reduce
from typing import ClassVar

from torch import Tensor, nn

from qdq.errors import InputError, SpecError
from qdq.nn.quantizer import TensorQuantizer
from qdq.spec import QuantSpec


class QuantMultiAdd(nn.Module):
    """Sum of any number of tensors, each fake-quantized on its way in.

    Args:
        inputs: how many tensors will be added, >= 2.
        shared: one quantizer for all inputs, so that their codes have one scale and add up
            without rescaling; otherwise each input has its own.
        spec: grid of inputs and output; None: int8 symmetric.

    Raises:
        SpecError: fewer than two inputs.
    """

    kind: ClassVar[str] = "add"

    def __init__(
        self, inputs: int = 2, *, shared: bool = False, spec: QuantSpec | None = None
    ) -> None:
        super().__init__()
        if inputs < 2:
            raise SpecError(f"an addition of {inputs} inputs", fix="pass inputs=2 or more")
        self.inputs = inputs
        self.shared = shared
        if shared:
            self._input_quantizer = TensorQuantizer(spec)
        else:
            self._input_quantizers = nn.ModuleList(TensorQuantizer(spec) for _ in range(inputs))
        self._output_quantizer = TensorQuantizer(spec)
        self._output_quantizer.active = False

    def forward(self, *tensors: Tensor) -> Tensor:
        """Sum from left to right of `inputs` tensors that broadcast against each other.

        Raises:
            InputError: another number of tensors.
        """
        if len(tensors) != self.inputs:
            other = f", or build QuantMultiAdd({len(tensors)})" if len(tensors) > 1 else ""
            raise InputError(
                f"this addition was made for {self.inputs} tensors and got {len(tensors)}",
                at=self._output_quantizer.site,
                fix=f"pass {self.inputs}{other}",
            )
        quantizers = (
            [self._input_quantizer] * self.inputs if self.shared else self._input_quantizers
        )
        quantized = [quantizer(x) for quantizer, x in zip(quantizers, tensors, strict=True)]
        return self._output_quantizer(reduce(lambda a, b: a + b, quantized))  # type: ignore[no-any-return]


class QuantAdd(QuantMultiAdd):
    """Sum of two tensors, each fake-quantized on its way in: a residual connection.

    Args:
        shared: one quantizer for both, see `QuantMultiAdd`.
        spec: grid of inputs and output; None: int8 symmetric.
    """

    def __init__(self, *, shared: bool = False, spec: QuantSpec | None = None) -> None:
        super().__init__(2, shared=shared, spec=spec)
