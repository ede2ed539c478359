"""Quantized nn.LSTM and nn.GRU: layers, directions, padded and packed sequences."""

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from qdq.errors import ExportError, InputError
from qdq.nn.recurrent import Given, GRUGates, LSTMGates, QuantRecurrent, State, projected
from qdq.nn.twins import register

# How many sequences still run at each step; None: all of them, at every step.
Sizes: TypeAlias = list[int] | None


class _QuantLayers(QuantRecurrent, nn.RNNBase):
    """Layers and directions of recurrent cells.

    The products with x do not depend on the state: one product serves all steps. Those with h
    follow each other in a loop over time, which the TorchScript exporter unrolls: a file serves
    the sequence length it was exported with, with any batch size.
    """

    @property
    def weight_names(self) -> tuple[str, ...]:
        """By layer and direction that of x, then that of h, as torch orders them."""
        return tuple(name for name in self._flat_weights_names if name.startswith("weight"))

    def forward(self, input: Tensor | PackedSequence, hx: Given = None) -> Any:
        """As the float class.

        Args:
            input: (T, N, in), with `batch_first` (N, T, in), unbatched (T, in), or packed.
            hx: (layers * directions, N, H) or unbatched (layers * directions, H); an LSTM takes
                h and c. None: zeros.

        Returns:
            The last layer's h of every step, in the form of `input`, and the last state of every
            layer and direction, in the form of `hx`.

        Raises:
            ExportError: a packed sequence on the way to ONNX.
            InputError: a sequence without steps.
            RuntimeError: shapes that do not fit, in torch's words.
        """
        if self.computes_float:
            return super().forward(input, hx)
        state = self.opened(hx)
        if isinstance(input, PackedSequence):
            return self._packed(input, state)
        if input.dim() == 3:
            y, state = self._batched(input, state)
            return y, self.closed(state)
        axis = 0 if self.batch_first else 1
        given = None if state is None else tuple(each.unsqueeze(1) for each in state)
        y, state = self._batched(input.unsqueeze(axis), given)
        return y.squeeze(axis), self.closed(tuple(each.squeeze(1) for each in state))

    def _batched(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        self._refuse_misfits(x, None, state)
        if not self.batch_first:
            return self._stacked(x, None, state)
        y, state = self._stacked(x.transpose(0, 1), None, state)
        return y.transpose(0, 1), state

    def _packed(self, packed: PackedSequence, state: State | None) -> Any:
        if torch.onnx.is_in_onnx_export():
            raise ExportError(
                "a packed sequence cannot be exported from a quantized layer: the unrolled steps "
                "would hold the lengths of the example for good",
                at=self.site,
                fix="export with a padded tensor, or leave this layer float with ignore=",
            )
        data, sizes, order, original = packed
        if state is not None and order is not None:
            state = tuple(each.index_select(1, order) for each in state)
        self._refuse_misfits(data, sizes, state)
        y, state = self._stacked(data, sizes.tolist(), state)
        if original is not None:
            state = tuple(each.index_select(1, original) for each in state)
        return PackedSequence(y, sizes, order, original), self.closed(state)

    def _refuse_misfits(self, x: Tensor, sizes: Tensor | None, state: State | None) -> None:
        """Torch's own errors for shapes; while it traces, they would only warn."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        if state is None:
            self.check_input(x, sizes)
        else:
            self.check_forward_args(x, self.closed(state), sizes)  # type: ignore[arg-type]
        if not x.shape[1 if self.batch_first and sizes is None else 0]:
            raise InputError(
                f"a sequence of shape {tuple(x.shape)} has no steps",
                at=self.site,
                fix="leave empty sequences out",
            )

    def _stacked(self, x: Tensor, sizes: Sizes, state: State | None) -> tuple[Tensor, State]:
        """All layers: x (T, N, in), or packed (rows of all steps, in); state (layers, N, H)."""
        directions = 2 if self.bidirectional else 1
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            ys = []
            for run in range(layer * directions, (layer + 1) * directions):
                start = None if state is None else tuple(each[run] for each in state)
                y, end = self._over_time(run, x, sizes, start)
                ys.append(y)
                ends.append(end)
            x = torch.cat(ys, -1) if self.bidirectional else ys[0]
        return x, tuple(torch.stack(each) for each in zip(*ends, strict=True))

    def _over_time(
        self, run: int, x: Tensor, sizes: Sizes, state: State | None
    ) -> tuple[Tensor, State]:
        """One layer in one direction.

        In a packed sequence the first `sizes[t]` rows run at step t. The others keep their state:
        forwards the one they ended with, backwards the one they will begin with.
        """
        of_x, of_h = self.product(2 * run), self.product(2 * run + 1)
        self.observe(2 * run, x)
        from_x = of_x(x)
        steps = from_x.unbind(0) if sizes is None else from_x.split(sizes)  # type: ignore[no-untyped-call]
        state = state or self.zeros(steps[0])
        ys, read = list(steps), []
        order = range(len(steps))
        backwards = self.bidirectional and run % 2
        for t in reversed(order) if backwards else order:
            running = state if sizes is None else tuple(each[: sizes[t]] for each in state)
            read.append(running[0])
            moved = self.step(steps[t], of_h(running[0]), running)
            ys[t] = moved[0]
            state = moved if sizes is None else _with_rest(moved, state)
        self.observe(2 * run + 1, *read)
        return (torch.stack(ys) if sizes is None else torch.cat(ys)), state


def _with_rest(moved: State, state: State) -> State:
    pairs = zip(moved, state, strict=True)
    return tuple(torch.cat([new, old[len(new) :]]) for new, old in pairs)


@register(nn.LSTM, unless=projected)
class QuantLSTM(LSTMGates, _QuantLayers, nn.LSTM):
    """`nn.LSTM` on fake-quantized inputs, states and weights; arguments: `QuantRecurrent`."""

    kind = "lstm"


@register(nn.GRU)
class QuantGRU(GRUGates, _QuantLayers, nn.GRU):
    """`nn.GRU` on fake-quantized inputs, states and weights; arguments: `QuantRecurrent`."""

    kind = "gru"
