"""Between which values a float tensor stays, whatever is fed to the graph."""

from typing import TypeAlias

import numpy as np

from qdq.graph.linting.grids import ends
from qdq.graph.linting.nodes import COPIES, DQ
from qdq.graph.linting.view import View

_DEEP = 32  # nodes on the way back; farther than any chain of pointwise operators
_UNIT = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
_PICKS = COPIES - {"Dropout"}  # which in training mode multiplies

Span: TypeAlias = tuple[float, float] | None


def bounds(view: View, tensor: str) -> Span:
    """(least, largest) value that a tensor can hold in float32; None if nothing tells.

    A DQ bounds it, and so do clamps and sums of what is bounded.
    """
    return _bounds(view, tensor, _DEEP, {})


def _bounds(view: View, tensor: str, depth: int, known: dict[str, Span]) -> Span:
    if tensor not in known:
        known[tensor] = None
        known[tensor] = _computed(view, tensor, depth, known)
    return known[tensor]


def _computed(view: View, tensor: str, depth: int, known: dict[str, Span]) -> Span:
    node = view.maker(tensor)
    if node is None or not depth:
        return None
    if node.op == DQ:
        return ends(view, node)
    if node.op in _UNIT:
        return 0.0, 1.0
    behind = [_bounds(view, name, depth - 1, known) for name in node.inputs[:2] if name]
    first = behind[0] if behind else None
    if first is None or (node.op in _PICKS and tensor == node.result):
        return first
    if node.op == "Relu":
        return max(first[0], 0.0), max(first[1], 0.0)
    second = behind[1] if len(behind) == 2 else None
    if node.op == "Add" and second is not None:
        low, high = (np.float32(a) + np.float32(b) for a, b in zip(first, second, strict=True))
        return float(low), float(high)
    return None
