"""What recurrent layers and cells share: products on quantized operands, gates in float."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from qdq.errors import SpecError
from qdq.nn.quantizer import TensorQuantizer
from qdq.numerics.affine import QParams
from qdq.sites import owner
from qdq.spec import QuantSpec
from qdq.targets.target import WEIGHT

State: TypeAlias = tuple[Tensor, ...]  # (h,) of a GRU, (h, c) of an LSTM
Given: TypeAlias = Tensor | tuple[Tensor, Tensor] | None  # a state as users write it


class LSTMGates:
    """How an LSTM moves on: Hochreiter and Schmidhuber 1997, forget gates by Gers et al. 2000."""

    states: ClassVar[int] = 2
    hidden_size: int

    def step(self, from_x: Tensor, from_h: Tensor, state: State) -> State:
        """The next h and c.

        Args:
            from_x: (N, 4 * H) what the input adds to the gates i, f, g and o.
            from_h: (N, 4 * H) what the state before adds to them.
            state: h and c, (N, H) each.
        """
        i, f, g, o = (from_x + from_h).split(self.hidden_size, -1)  # type: ignore[no-untyped-call]
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GRUGates:
    """How a GRU moves on: Cho et al. 2014, arXiv:1406.1078, v1: the reset is behind the product."""

    states: ClassVar[int] = 1
    hidden_size: int

    def step(self, from_x: Tensor, from_h: Tensor, state: State) -> State:
        """The next h.

        Args:
            from_x: (N, 3 * H) what the input adds to the gates r, z and n.
            from_h: (N, 3 * H) what the state before adds to them; r scales its part of n.
            state: h, (N, H).
        """
        x_r, x_z, x_n = from_x.split(self.hidden_size, -1)  # type: ignore[no-untyped-call]
        h_r, h_z, h_n = from_h.split(self.hidden_size, -1)  # type: ignore[no-untyped-call]
        n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        return (n + (x_z + h_z).sigmoid() * (state[0] - n),)


class QuantRecurrent(nn.Module):
    """Mixin of a recurrent layer or cell, to stand before its float class.

    What an integer runtime executes of it are its matrix products, so those are what is
    fake-quantized, each input and each weight with its own quantizer: x and h have different
    ranges, and one scale for both would waste codes of the smaller. Product k is
    `_input_quantizers.k` times `_weight_quantizers.k`, in the order of torch's parameters: 0 is x
    by `weight_ih`, 1 is h by `weight_hh`, 2 and 3 belong to the next direction or layer. One range
    serves all steps. Sums, biases, gates and the cell state stay float: they are a small share of
    the work, and c has no bound that a fixed range could rely on.

    While a weight's quantizer is off its input's is off too, as in `QuantWeighted`. While all
    weights are off and nothing is observed, the float class computes, bit for bit.

    Args:
        *args: as for the float class.
        input_spec: grid of the inputs; None: int8 symmetric.
        weight_spec: grid of the weights; None: int8 symmetric, a scale per output channel.
        **kwargs: as for the float class, `device` and `dtype` among them.

    Attributes:
        kind: what the op is called in the neutral op graph.
        states: how many tensors make a state.
    """

    kind: ClassVar[str]
    states: ClassVar[int]
    bias: bool
    hidden_size: int
    _input_quantizers: nn.ModuleList
    _weight_quantizers: nn.ModuleList

    def __init__(
        self,
        *args: Any,
        input_spec: QuantSpec | None = None,
        weight_spec: QuantSpec | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(input_spec, weight_spec)

    def add_quantizers(
        self, input_spec: QuantSpec | None = None, weight_spec: QuantSpec | None = None
    ) -> None:
        """Give the layer a quantizer per input and per weight; on the output there is none.

        Args:
            input_spec: grid of the inputs; None: int8 symmetric.
            weight_spec: grid of the weights; None: int8 symmetric, a scale per output channel.

        Raises:
            SpecError: the layer projects its state (`proj_size`).
        """
        refused = projected(self)
        if refused:
            raise SpecError(
                f"a {type(self).__name__} cannot quantize this: {refused}",
                fix="leave the layer float with ignore=, or build it with proj_size=0",
            )
        count = len(self.weight_names)
        per_channel = weight_spec or replace(WEIGHT, keep_axis=0)
        self._input_quantizers = nn.ModuleList(TensorQuantizer(input_spec) for _ in range(count))
        self._weight_quantizers = nn.ModuleList(
            TensorQuantizer(per_channel, dynamic=True) for _ in range(count)
        )

    @abstractmethod
    def step(self, from_x: Tensor, from_h: Tensor, state: State) -> State:
        """The next state, in float: see `LSTMGates` and `GRUGates`."""

    @property
    @abstractmethod
    def weight_names(self) -> tuple[str, ...]:
        """The parameters that are multiplied by, in the order of the quantizers."""

    def quantizers(self, k: int) -> tuple[TensorQuantizer, TensorQuantizer]:
        """Of product k: that of its input and that of its weight."""
        return self._input_quantizers[k], self._weight_quantizers[k]  # type: ignore[return-value]

    def weights(self) -> dict[str, tuple[Tensor, QParams]]:
        """Role of each weight among the sites -> (the weight, its grid as it is now)."""
        held = {k: getattr(self, name) for k, name in enumerate(self.weight_names)}
        return {f"weight_{k}": (w, self.quantizers(k)[1].grid(w)) for k, w in held.items()}

    @property
    def site(self) -> str:
        """Name of this layer in the model it was inserted into."""
        return owner(self.quantizers(0)[0].site)

    @property
    def computes_float(self) -> bool:
        """Whether nothing is quantized now, and nothing observed."""
        pairs = [self.quantizers(k) for k in range(len(self._weight_quantizers))]
        return not any(of_x.observer or of_weight.on for of_x, of_weight in pairs)

    def product(self, k: int) -> Callable[[Tensor], Tensor]:
        """Product k: x (..., in) -> (..., out), x times weight plus bias.

        Weight and grids are found once, for all the steps the product is then called in. It is
        no `F.linear`: that exports as Gemm, whose float bias would keep it from running in
        integers (O16), where a MatMul needs no pair behind it (O15).
        """
        quantizer, of_weight = self.quantizers(k)
        name = self.weight_names[k]
        weight = getattr(self, name)
        bias = getattr(self, name.replace("weight", "bias")) if self.bias else None
        quantized = of_weight.on and quantizer.observer is None
        known = quantized and quantizer.on and quantizer.calibrated
        grid = quantizer.grid(weight) if known else None
        transposed = (of_weight(weight) if quantized else weight).t()

        def multiply(x: Tensor) -> Tensor:
            y = (quantizer(x, grid) if quantized else x) @ transposed
            return y if bias is None else y + bias  # type: ignore[no-any-return]

        return multiply

    def observe(self, k: int, *steps: Tensor) -> None:
        """Show what product k reads, one step or all, to its observer, if there is one."""
        quantizer, _ = self.quantizers(k)
        if quantizer.observer is not None:
            quantizer(torch.cat(steps))

    def zeros(self, like: Tensor) -> State:
        """The state to begin with where none is given: (..., H) for `like` of (..., any)."""
        return (like.new_zeros(*like.shape[:-1], self.hidden_size),) * self.states

    def opened(self, hx: Given) -> State | None:
        """A state as users write it, as a tuple."""
        return (hx,) if isinstance(hx, Tensor) else hx

    def closed(self, state: State) -> Tensor | State:
        """A state as users read it: a GRU's is one tensor."""
        return state if self.states > 1 else state[0]


def projected(layer: nn.Module) -> str:
    """Why an LSTM has to stay float: it projects its state; empty if it does not."""
    size = getattr(layer, "proj_size", 0)
    return f"proj_size={size} is a third product in every step, which has no sites" if size else ""
