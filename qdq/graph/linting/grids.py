"""The grids of Q and DQ nodes, and which axis of a layer's weight keeps its scales."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qdq.graph.linting.nodes import DQ, WEIGHTED, Array, Node, Q
from qdq.graph.linting.view import View

ENDS: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT32: (-(2**31), 2**31 - 1),
}  # fmt: skip


def scale_of(view: View, node: Node) -> Array | None:
    """The constant scale of a Q or DQ; None where it is computed."""
    return view.value(node.input(1))


def zero_point_of(view: View, node: Node) -> Array | None:
    """The constant zero point of a Q or DQ; None where it is left out or computed."""
    return view.value(node.input(2)) if node.input(2) else None


def codes_kind(view: View, node: Node) -> int:
    """The TensorProto type of the codes of a Q or DQ; UNDEFINED if the file does not say."""
    point = view.kind(node.input(2)) if node.input(2) else TensorProto.UNDEFINED
    if point != TensorProto.UNDEFINED:
        return point
    if node.op == Q:
        return int(node.attribute("output_dtype", 0)) or TensorProto.UINT8
    pair = view.pair(node)
    return view.kind(node.input(0)) if pair is None else codes_kind(view, pair)


def same_grid(view: View, one: Node, other: Node) -> bool:
    """Whether two Q or DQ have equal constant scales, zero points and types of codes."""
    scale, twin = scale_of(view, one), scale_of(view, other)
    if scale is None or twin is None or not np.array_equal(scale.ravel(), twin.ravel()):
        return False
    if one.attribute("block_size", 0) != other.attribute("block_size", 0):
        return False
    if scale.size > 1 and one.attribute("axis", 1) != other.attribute("axis", 1):
        return False
    points = []
    for node in (one, other):
        point = zero_point_of(view, node)
        if point is None and node.input(2):
            return False  # computed
        points.append(np.zeros(1) if point is None else point.ravel())
    if 1 not in (points[0].size, points[1].size) and points[0].size != points[1].size:
        return False
    equal = bool(np.all(points[0] == points[1]))
    return equal and codes_kind(view, one) == codes_kind(view, other)


def ends(view: View, node: Node) -> tuple[float, float] | None:
    """The least and the largest value that the codes of a Q or DQ hold; None if it is not said."""
    codes, scale = ENDS.get(codes_kind(view, node)), scale_of(view, node)
    if codes is None or scale is None or scale.size != 1:
        return None
    point = zero_point_of(view, node)
    middle = 0 if point is None else int(point.ravel()[0])
    step = float(scale.ravel()[0])
    return (codes[0] - middle) * step, (codes[1] - middle) * step


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant factor of a layer, behind a DequantizeLinear.

    Attributes:
        layer: the node that multiplies by it.
        dq: its DequantizeLinear.
        axis: the axis with one scale per entry, as the layer sees it; None: one scale in all.
        channel_axis: the axis of output channels, as the layer sees it; none of a product's first
            factor that is spread over batches.
        shape: as the layer sees it.
    """

    layer: Node
    dq: Node
    axis: int | None
    channel_axis: int
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """How long the axis of output channels is."""
        return self.shape[self.channel_axis]


def weights(view: View) -> Iterator[Weight]:
    """Every constant weight that is dequantized, whether the file holds codes or floats."""
    for layer in view.of(*WEIGHTED):
        constant = [i for i in (1, 0) if layer.input(i) and view.is_constant(layer.input(i))]
        for index in constant[:1]:  # where both are, the first is data
            found = _weight(view, layer, layer.input(index), index)
            if found is not None:
                yield found


def weight_codes(view: View, dequantizer: Node) -> Array | None:
    """The integers of a weight, quantized here if the file holds floats."""
    held = view.value(dequantizer.input(0))
    quantizer = view.pair(dequantizer)
    if held is not None or quantizer is None:
        return held
    values, scale = view.value(quantizer.input(0)), scale_of(view, quantizer)
    limits = ENDS.get(codes_kind(view, quantizer))
    point = zero_point_of(view, quantizer)
    if values is None or scale is None or limits is None:
        return None
    shape = [1] * values.ndim
    if scale.size > 1:
        axis = quantizer.attribute("axis", 1)
        if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
            return None
        shape[axis] = scale.size
    middle = 0 if point is None else point.astype(np.int64).reshape(shape if point.size > 1 else ())
    with np.errstate(all="ignore"):
        codes = np.rint(values / scale.reshape(shape if scale.size > 1 else ())) + middle
        result: Array = np.nan_to_num(np.clip(codes, *limits)).astype(np.int32)
    return result


def _weight(view: View, layer: Node, name: str, index: int) -> Weight | None:
    """The weight behind a name, through what turns or renames it."""
    turns: list[Node] = []
    node = view.maker(name)
    while node is not None and node.op in ("Transpose", "Identity"):
        turns.append(node)
        node = view.maker(node.input(0))
    if node is None or node.op != DQ:
        return None
    shape = view.shape(node.input(0))
    if shape is None and (quantizer := view.pair(node)) is not None:
        shape = view.shape(quantizer.input(0))
    if not shape or None in shape:
        return None
    order = list(range(len(shape)))
    for turn in reversed(turns):
        if turn.op == "Transpose":
            turned = turn.attribute("perm", list(range(len(shape) - 1, -1, -1)))
            if sorted(turned) != list(range(len(shape))):
                return None
            order = [order[axis] for axis in turned]
    seen = tuple(shape[axis] or 0 for axis in order)
    channel_axis = _channel_axis(layer, len(shape), index)
    if not 0 <= channel_axis < len(shape):
        return None
    scale, axis = scale_of(view, node), node.attribute("axis", 1)
    many = scale is not None and scale.size > 1 and -len(shape) <= axis < len(shape)
    kept = order.index(axis % len(shape)) if many else None
    return Weight(layer, node, kept, channel_axis, seen)


def _channel_axis(layer: Node, rank: int, index: int) -> int:
    """Where a layer keeps its output channels (T04)."""
    match layer.op:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            turned = layer.attribute("transB" if index else "transA", 0)
            return int(bool(turned)) ^ index
    return rank - 1 if index else rank - 2
