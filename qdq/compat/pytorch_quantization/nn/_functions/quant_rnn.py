"""An LSTM step by step, over padded and packed sequences."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Pair: TypeAlias = tuple[Tensor, Tensor]  # h and c, (N, H) each
Cell: TypeAlias = Callable[[Tensor, Pair], Pair]


def lstm_cell(
    x: Tensor,
    state: Pair,
    weight: Tensor,
    bias: Tensor | None,
    quantize: Callable[[Tensor], Tensor],
) -> Pair:
    """One step: Hochreiter and Schmidhuber 1997, forget gates by Gers et al. 2000.

    Args:
        x: (N, in), or unbatched (in,).
        state: h and c before it, (N, H) or (H,).
        weight: (4 * H, in + H), rows of the gates i, f, g and o.
        bias: (4 * H,).
        quantize: applied to x and h together.

    Returns:
        h and c after it.
    """
    h, c = state
    gates = F.linear(quantize(torch.cat([x, h], -1)), weight, bias)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def over_time(
    cell: Cell,
    steps: Sequence[Tensor],
    sizes: Sequence[int] | None,
    state: Pair,
    *,
    backwards: bool,
) -> tuple[list[Tensor], Pair]:
    """A cell over one layer in one direction.

    Args:
        cell: cell(x, state) -> next state.
        steps: x of every step, (N, in), or of the rows that still run.
        sizes: how many of the first rows run at each step, falling; None: all, always.
        state: h and c to begin with, (N, H). A row that does not run keeps its own: forwards what
            it ended with, backwards what it will begin with.
        backwards: from the last step to the first.

    Returns:
        (h of every step in the order of `steps`, the state after the last one).
    """
    results = list(steps)
    order = range(len(steps))
    for t in reversed(order) if backwards else order:
        if sizes is None:
            state = cell(steps[t], state)
            results[t] = state[0]
            continue
        running = cell(steps[t], (state[0][: sizes[t]], state[1][: sizes[t]]))
        results[t] = running[0]
        state = (_over(running[0], state[0]), _over(running[1], state[1]))
    return results, state


def _over(first: Tensor, rows: Tensor) -> Tensor:
    """`rows` with the first of them replaced."""
    return torch.cat([first, rows[len(first) :]])
