"""Quantized nn.LSTM and nn.LSTMCell."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from qdq.compat.pytorch_quantization.nn._functions.quant_rnn import (
    Cell,
    Pair,
    lstm_cell,
    over_time,
)
from qdq.compat.pytorch_quantization.nn.modules._layers import QuantLayer
from qdq.compat.pytorch_quantization.nn.modules._utils import quantized_weight
from qdq.compat.pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from qdq.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW,
    QuantDescriptor,
)

__all__ = ["LSTM", "LSTMCell", "QuantLSTM", "QuantLSTMCell"]

PER_ROW = QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW


class _QuantLSTMBase(QuantLayer):
    """One product per step: the weights of x and h side by side, times x above h."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = PER_ROW

    def _cell(self, suffix: str, of_input: TensorQuantizer, of_weight: TensorQuantizer) -> Cell:
        """The step of the parameters whose names end so; its weight is quantized once."""
        held = {name: getattr(self, f"{name}{suffix}", None) for name in ("bias_ih", "bias_hh")}
        weights = [getattr(self, f"weight_{source}{suffix}") for source in ("ih", "hh")]
        weight = quantized_weight(torch.cat(weights, 1), of_weight, of_input)
        biases = [bias for bias in held.values() if bias is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        return partial(lstm_cell, weight=weight, bias=bias, quantize=of_input)


class QuantLSTM(_QuantLSTMBase, nn.LSTM):
    """`nn.LSTM` in Python, with a pair of quantizers per layer and direction.

    `_input_quantizers.N` quantizes x and h together at every step, `_weight_quantizers.N` the
    weights of both; N counts layers and, inside them, directions. Arguments: `QuantLayer`.

    Raises:
        ValueError: proj_size > 0.
    """

    def _pairs(self) -> int:
        if self.proj_size > 0:
            raise ValueError(
                f"proj_size={self.proj_size} is not supported in QuantLSTM: build it without, or "
                "leave the layer float"
            )
        return self.num_layers * (2 if self.bidirectional else 1)

    def forward(self, input: Tensor | PackedSequence, hx: Pair | None = None) -> Any:
        """As the float class.

        Args:
            input: (T, N, in), with `batch_first` (N, T, in), unbatched (T, in), or packed.
            hx: h and c, (layers * directions, N, H), unbatched without N; None: zeros.

        Returns:
            The last layer's h of every step, in the form of `input`, and the last h and c.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.dim() == 3:
            return self._batched(input, hx)
        axis = 0 if self.batch_first else 1
        given = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        y, (h, c) = self._batched(input.unsqueeze(axis), given)
        return y.squeeze(axis), (h.squeeze(1), c.squeeze(1))

    def _batched(self, x: Tensor, hx: Pair | None) -> tuple[Tensor, Pair]:
        steps = (x.transpose(0, 1) if self.batch_first else x).unbind(0)
        hx = self._zeros(steps[0]) if hx is None else hx
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self.check_forward_args(x, hx, None)
        ys, state = self._stacked(list(steps), None, hx)
        return torch.stack(ys, 1 if self.batch_first else 0), state

    def _packed(self, packed: PackedSequence, hx: Pair | None) -> tuple[PackedSequence, Pair]:
        data, batch_sizes, order, original = packed
        sizes = batch_sizes.tolist()
        steps = list(data.split(sizes))  # type: ignore[no-untyped-call]
        hx = self._zeros(steps[0]) if hx is None else self.permute_hidden(hx, order)
        self.check_forward_args(data, hx, batch_sizes)
        ys, state = self._stacked(steps, sizes, hx)
        result = PackedSequence(torch.cat(ys), batch_sizes, order, original)
        return result, self.permute_hidden(state, original)

    def _zeros(self, first: Tensor) -> Pair:
        zeros = first.new_zeros(len(self._input_quantizers), first.size(0), self.hidden_size)
        return zeros, zeros

    def _stacked(
        self, steps: list[Tensor], sizes: list[int] | None, hx: Pair
    ) -> tuple[list[Tensor], Pair]:
        """All layers over all steps."""
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        ends: list[Pair] = []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                steps = [F.dropout(step, self.dropout) for step in steps]
            results = []
            for suffix in suffixes:
                run = len(ends)
                pair = (self._input_quantizers[run], self._weight_quantizers[run])
                cell = self._cell(f"_l{layer}{suffix}", *pair)  # type: ignore[arg-type]
                start = (hx[0][run], hx[1][run])
                ys, end = over_time(cell, steps, sizes, start, backwards=bool(suffix))
                results.append(ys)
                ends.append(end)
            steps = [torch.cat(both, -1) for both in zip(*results, strict=True)]
        h, c = (torch.stack(each) for each in zip(*ends, strict=True))
        return steps, (h, c)


class QuantLSTMCell(_QuantLSTMBase, nn.LSTMCell):
    """`nn.LSTMCell` on a quantized input and weight; arguments: `QuantLayer`."""

    def forward(self, input: Tensor, hx: Pair | None = None) -> Pair:
        """(N, in) or (in,), and h and c of (N, H) or (H,) -> the next h and c.

        Args:
            input: one step.
            hx: the state before it; None: zeros.
        """
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros)
        return self._cell("", self._input_quantizer, self._weight_quantizer)(input, hx)


LSTM = QuantLSTM
LSTMCell = QuantLSTMCell
