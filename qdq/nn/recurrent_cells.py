"""Quantized nn.LSTMCell and nn.GRUCell: one step; the loop over time is the user's."""

from typing import Any

import torch
from torch import Tensor, nn

from qdq.errors import InputError
from qdq.nn.recurrent import Given, GRUGates, LSTMGates, QuantRecurrent, State
from qdq.nn.twins import register


class _QuantCell(QuantRecurrent, nn.RNNCellBase):
    """One step of one layer; its ranges serve every call."""

    @property
    def weight_names(self) -> tuple[str, ...]:
        """That of x, then that of h."""
        return ("weight_ih", "weight_hh")

    def forward(self, input: Tensor, hx: Given = None) -> Any:
        """As the float class.

        Args:
            input: (N, in), or unbatched (in,).
            hx: (N, H) or unbatched (H,); an LSTM takes h and c. None: zeros.

        Returns:
            The next state, in the form of `hx`.

        Raises:
            InputError: the shapes of input and state do not fit each other.
        """
        if self.computes_float:
            return super().forward(input, hx)
        state = self.opened(hx) or self.zeros(input)
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self._refuse_misfits(input, state)
        of_x, of_h = self.product(0), self.product(1)
        self.observe(0, input)
        self.observe(1, state[0])
        return self.closed(self.step(of_x(input), of_h(state[0]), state))

    def _refuse_misfits(self, x: Tensor, state: State) -> None:
        """A state of another batch would broadcast, where the float class raises."""
        shapes = [tuple(each.shape) for each in state]
        wanted = (*x.shape[:-1], self.hidden_size)
        if x.dim() in (1, 2) and shapes == [wanted] * self.states:
            return
        raise InputError(
            f"input of shape {tuple(x.shape)} and a state of {shapes} do not fit this cell",
            at=self.site,
            fix=f"pass (N, {self.input_size}) with {self.states} of (N, {self.hidden_size}), or "
            "both without N",
        )


@register(nn.LSTMCell)
class QuantLSTMCell(LSTMGates, _QuantCell, nn.LSTMCell):
    """`nn.LSTMCell` on fake-quantized input, state and weights; arguments: `QuantRecurrent`."""

    kind = "lstm_cell"


@register(nn.GRUCell)
class QuantGRUCell(GRUGates, _QuantCell, nn.GRUCell):
    """`nn.GRUCell` on fake-quantized input, state and weights; arguments: `QuantRecurrent`."""

    kind = "gru_cell"
