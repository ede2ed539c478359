"""Between which values each tensor of a stripped graph lies, as its file says or lets derive."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_graphsurgeon as gs

from qdq.graph.edges import maker_of, only_reader, values_of
from qdq.graph.retargeting.grids import Known, Range
from qdq.graph.retargeting.stripping import Seen, Stripped

_UNIT = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
# What they give are values of their first input.
_PICKING = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout",
    "Slice", "Gather", "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "AveragePool",
})  # fmt: skip
# Of these it may as well be rounded in front of them as behind: they keep every value, or order.
_KEEPING = frozenset({
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Concat",
})  # fmt: skip
_FAR = 16  # nodes between a tensor and the pair that says something of it


class Ranges:
    """Answers where a tensor's values lie.

    Args:
        stripped: the float graph and its pairs.
        noted: site -> range, as the metadata of our files has them; also of sites without a pair.
    """

    def __init__(self, stripped: Stripped, noted: Mapping[str, Range]) -> None:
        self._stripped, self._noted = stripped, noted
        self._measured: dict[str, Known] = {}

    def measure(self, tensor: str, range_: Range) -> None:
        """From now on this is known of a tensor that nothing was known of."""
        self._measured[tensor] = Known(range_, None, "measured")

    def of_edge(self, node: gs.Node, index: int, site: str) -> Known | None:
        """What a node reads there; None where nothing tells."""
        seen = self._stripped.edges.get((id(node), index))
        noted = self._said_of(site, seen)
        if noted is not None:
            return noted
        return self.of_tensor(node.inputs[index]) if seen is None else self._of_pair(seen)

    def of_result(self, tensor: gs.Tensor, site: str) -> Known | None:
        """What leaves an operator; None where nothing tells."""
        seen = self._stripped.tensors.get(tensor.name)
        noted = self._said_of(site, seen)
        return noted if noted is not None else self.of_tensor(tensor)

    def of_tensor(self, tensor: gs.Tensor, far: int = _FAR) -> Known | None:
        """By a pair on it, or by its neighbours."""
        seen = self._stripped.tensors.get(tensor.name)
        if seen is not None:
            return self._of_pair(seen)
        if tensor.name in self._measured:
            return self._measured[tensor.name]
        if not far or isinstance(tensor, gs.Constant):
            return None
        found = self._from_maker(tensor, far - 1) or self._from_reader(tensor, far - 1)
        return None if found is None else replace(found, origin="derived")

    def _of_pair(self, seen: Seen) -> Known:
        return self._said_of(seen.site, seen) or Known(seen.grid.range, seen.grid, "file")

    def _said_of(self, site: str, seen: Seen | None) -> Known | None:
        """The range that the metadata has, unless the pair contradicts it."""
        range_ = self._noted.get(site)
        if range_ is None or seen is None:
            return None if range_ is None else Known(range_, None, "noted")
        low, high = seen.grid.ends
        slack = seen.grid.scale
        agrees = low - slack <= range_[0] and range_[1] <= high + slack
        return Known(range_, seen.grid, "noted") if agrees else None

    def _from_maker(self, tensor: gs.Tensor, far: int) -> Known | None:
        node = maker_of(tensor)
        if node is None or node.domain not in (None, "", "ai.onnx"):
            return None
        if node.op in _UNIT:
            return Known((0.0, 1.0), None, "derived")
        if node.op == "Concat":
            parts = [self.of_tensor(each, far) for each in node.inputs]
            whole = [each for each in parts if each is not None]
            return _hull(whole) if len(whole) == len(parts) else None
        if node.op not in (*_PICKING, "Relu", "Clip"):
            return None
        before = self.of_tensor(node.inputs[0], far)
        return None if before is None else replace(before, range=_clamped(node, before.range))

    def _from_reader(self, tensor: gs.Tensor, far: int) -> Known | None:
        reader = only_reader(self._stripped.graph, tensor)
        if reader is None or reader.op not in _KEEPING:
            return None
        if reader.op != "Concat" and reader.inputs[0] is not tensor:
            return None
        seen = self._stripped.tensors.get(reader.outputs[0].name)
        if seen is not None:
            return self._of_pair(seen)
        return self._from_reader(reader.outputs[0], far - 1) if far > 0 else None


def _hull(parts: list[Known]) -> Known:
    grids = {each.grid for each in parts}
    low, high = min(each.range[0] for each in parts), max(each.range[1] for each in parts)
    return Known((low, high), grids.pop() if len(grids) == 1 else None, "derived")


def _clamped(node: gs.Node, range_: Range) -> Range:
    limits = (-float("inf"), float("inf"))
    if node.op == "Relu":
        limits = (0.0, limits[1])
    elif node.op == "Clip":
        ends = [values_of(node, index) for index in (1, 2)]
        found = [None if each is None else float(each.reshape(-1)[0]) for each in ends]
        limits = (
            limits[0] if found[0] is None else found[0],
            limits[1] if found[1] is None else found[1],
        )
    low, high = (min(max(end, limits[0]), limits[1]) for end in range_)
    return low, high
