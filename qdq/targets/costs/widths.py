"""Channels as the speed passes pad them for integer kernels: see `qdq.graph.speed.widths`."""

from collections.abc import Collection

from qdq.targets.costs.layers import ALIGNED, DEPTHWISE, FEWEST
from qdq.targets.opgraph import CLAMPS, Op, OpGraph

_GROWTH = 2  # times as many channels at most
_KEEPING = frozenset({*CLAMPS, "identity", "max_pool", "avg_pool", "add"})


def padded_widths(graph: OpGraph, integer: Collection[str]) -> dict[int, int]:
    """Tensor -> its channels after padding, for tensors that get more.

    Only what integer convolutions make and read, through ops that keep channels apart, is padded:
    to blocks of 4 and at least 16, where a depthwise convolution stands between to blocks of 16.

    Args:
        graph: one forward.
        integer: names of the ops that run in integers.
    """
    found: dict[int, int] = {}
    seen: set[int] = set()
    for op in graph.ops:
        if _is_dense(op, integer) and op.outputs[0] not in seen:
            tensors, block = _stretch(graph, op.outputs[0], integer)
            seen |= tensors
            width = max(-(-op.weight[0] // block) * block, FEWEST) if block else 0
            if op.weight[0] < width <= _GROWTH * op.weight[0]:
                found |= dict.fromkeys(tensors, width)
    return found


def _stretch(graph: OpGraph, first: int, integer: Collection[str]) -> tuple[set[int], int]:
    """Tensors that have the same channels as this one, and their block; 0: not to be padded."""
    tensors, work, block = {first}, [first], ALIGNED
    while work:
        tensor = work.pop()
        maker = graph.producer.get(tensor)
        if maker is None or tensor in graph.outputs:
            return tensors, 0
        for op in (maker, *graph.readers.get(tensor, ())):
            if _is_dense(op, integer):
                continue
            if op.kind == "conv" and op.name in integer and _is_depthwise(op):
                block = DEPTHWISE
            elif op.kind not in _KEEPING:
                return tensors, 0
            tied = {*op.inputs, *op.outputs} - tensors
            tensors |= tied
            work += tied
    return tensors, block


def _is_dense(op: Op, integer: Collection[str]) -> bool:
    return op.kind == "conv" and op.groups == 1 and bool(op.weight) and op.name in integer


def _is_depthwise(op: Op) -> bool:
    return op.groups > 1 and op.weight[:2] == (op.groups, 1)
