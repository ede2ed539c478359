"""What pairs cut off of their tensors: kept by a Clip, or named, where no pair stands any more."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import is_output
from qdq.graph.retargeting.evidence import share_beyond
from qdq.graph.retargeting.placing import Plan
from qdq.graph.retargeting.stripping import Seen, Stripped
from qdq.numerics.histogram import Histogram
from qdq.records.retargeting import Loss

_SHARE = 1e-3  # of the values: a pair that clips fewer has cut off what is rare, as any range does
# What is cut off behind them is what was cut off in front.
_MOVING = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice",
    "DepthToSpace", "SpaceToDepth", "Relu",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Open:
    """A tensor that is read through a pair in the first file, and as it is in the second.

    Attributes:
        tensor: in float.
        seen: the pair.
    """

    tensor: gs.Tensor
    seen: Seen


class Cover:
    """Which readings of a stripped graph, not marked yet, the second file rounds.

    Args:
        stripped: the graph.
        plan: what is rounded.
        from_zero: only count what is rounded to codes that begin at 0.
    """

    def __init__(self, stripped: Stripped, plan: Plan, *, from_zero: bool = False) -> None:
        rounded = [each for each in plan.roundings if not from_zero or each.grid.begins_at_zero]
        self._graph = stripped.graph
        self._ends = {each.end.name for each in rounded if each.role == "output"}
        self._edges = {
            (id(each.place.node), each.place.roles[each.role])
            for each in rounded
            if each.role != "output"
        }

    def of_tensor(self, tensor: gs.Tensor) -> bool:
        """Whether all who read a tensor read it rounded, or move it to where it is."""
        if tensor.name in self._ends:
            return True
        edges = [
            (reader, index)
            for reader in tensor.outputs
            for index, each in enumerate(reader.inputs)
            if each is tensor and reader.op != "Shape"
        ]
        return not is_output(self._graph, tensor) and all(self.of_edge(*each) for each in edges)

    def of_edge(self, node: gs.Node, index: int) -> bool:
        """Whether a node reads it rounded, or moves it to where it is."""
        if (id(node), index) in self._edges or node.inputs[index].name in self._ends:
            return True
        return node.op in _MOVING and index == 0 and all(map(self.of_tensor, node.outputs))


def keep_clamps(stripped: Stripped, plan: Plan) -> None:
    """A Relu in the place of a clamping pair becomes a Clip where nothing is rounded, in place.

    Quantizers drop a Clip whose ends are those of the pair behind it.
    """
    cover = Cover(stripped, plan)
    for relu, high in stripped.clamps.values():
        if not cover.of_tensor(relu.outputs[0]):
            ends = [
                gs.Constant(f"{relu.outputs[0].name}.{word}", np.array(end, np.float32))
                for word, end in (("least", 0.0), ("most", high))
            ]
            relu.op, relu.inputs = "Clip", [relu.inputs[0], *ends]


def open_tensors(stripped: Stripped, plan: Plan) -> list[Open]:
    """What lost its pair, without what a Clip or a Relu of `strip` clamps."""
    cover, found = Cover(stripped, plan), dict[str, Open]()
    clamped = {relu.outputs[0].name for relu, _ in stripped.clamps.values()}
    for node in stripped.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            seen = stripped.edges.get((id(node), index))
            if seen is None or tensor.name in clamped or cover.of_edge(node, index):
                continue
            found.setdefault(tensor.name, Open(tensor, seen))
    return list(found.values())


def unclamped(opened: list[Open], seen: Mapping[str, Histogram]) -> list[Loss]:
    """What is no longer clipped, by the values that the tensors see."""
    found = []
    for each in opened:
        (low, high), hist = each.seen.grid.ends, seen.get(each.tensor.name)
        half = each.seen.grid.scale / 2  # what is rounded to an end is not clipped
        share = 0.0 if hist is None else share_beyond(hist, (low - half, high + half))
        if share >= _SHARE:
            why = f"the file clips {share:.2%} of its values to {low:.4g}..{high:.4g}"
            found.append(Loss(each.tensor.name, "clamp", f"{why}; no pair is there any more"))
    return found


def unkept_inputs(stripped: Stripped, plan: Plan) -> list[Loss]:
    """Losses of `strip`, without those of inputs whose codes begin at 0 in the second file too."""
    cover = Cover(stripped, plan, from_zero=True)
    kept = {each.name for each in stripped.graph.inputs if cover.of_tensor(each)}
    return [each for each in stripped.losses if each.what != "clamp" or each.place not in kept]
