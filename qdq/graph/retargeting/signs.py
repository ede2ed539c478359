"""Which float tensors cannot be negative, whatever is fed to the graph."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import maker_of, values_of

_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"})
# What none of its inputs makes negative, if none of them is.
_KEEPING_ALL = frozenset({"Concat", "Add", "Sum", "Mul", "Max"})
# Likewise of the first input alone.
_KEEPING_FIRST = frozenset({
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum",
    "ReduceMax", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout",
    "Slice", "Gather", "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth",
})  # fmt: skip
_FAR = 64  # nodes looked at on the way back; a clamp is close to what it clamps


def is_nonnegative(tensor: gs.Tensor) -> bool:
    """Whether the operators that make a tensor leave no value below 0.

    Every way back from it ends in one that gives no negative number, or in such a constant.
    """
    work, seen = [tensor], {id(tensor)}
    while work and len(seen) <= _FAR:
        each = work.pop()
        behind = _deciding(each)
        if behind is None:
            return False
        fresh = [one for one in behind if id(one) not in seen]
        seen.update(map(id, fresh))
        work += fresh
    return not work


def _deciding(tensor: gs.Tensor) -> list[gs.Tensor] | None:
    """The tensors that must not be negative for this one not to be; None where it may be so."""
    if isinstance(tensor, gs.Constant):
        numeric = np.issubdtype(tensor.dtype, np.number)
        return [] if numeric and bool(np.all(tensor.values >= 0)) else None
    node = maker_of(tensor)
    if node is None or node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op in _NEVER_NEGATIVE:
        return []
    if node.op == "Clip":
        least = values_of(node, 1)
        if least is not None and least.size == 1 and float(least.reshape(())) >= 0:
            return []
        return [node.inputs[0]]
    if node.op == "Pad" and _pads_with_no_negative(node):
        return [node.inputs[0]]
    if node.op in _KEEPING_ALL:
        return list(node.inputs)
    return [node.inputs[0]] if node.op in _KEEPING_FIRST else None


def _pads_with_no_negative(node: gs.Node) -> bool:
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return True  # it pads with 0, or with values that are there
    value = values_of(node, 2)
    return value is not None and bool(np.all(value >= 0))
