"""What the ONNX operators QuantizeLinear and DequantizeLinear ask of every file: Q01-Q05."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.grids import codes_kind, scale_of, zero_point_of
from qdq.graph.linting.nodes import DQ, Node, Q
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target

_SMALLEST = float(np.finfo(np.float32).smallest_normal)


@checks("Q01")
def scales_can_be_divided_by(view: View, target: Target) -> Iterator[Finding]:
    """Zero, negative, infinite and subnormal scales, and NaN; of a pair its Q is named."""
    for node in view.of(Q, DQ):
        scale = scale_of(view, node) if node.op == Q or view.pair(node) is None else None
        if scale is None or not scale.size or not np.issubdtype(scale.dtype, np.floating):
            continue
        smallest = 0.0 if node.op == DQ or scale.dtype != np.float32 else _SMALLEST
        wrong = ~(np.isfinite(scale) & (scale > 0) & (scale >= smallest))
        if wrong.any():
            why = f"{np.count_nonzero(wrong)} of {scale.size} scales like {scale[wrong][0]:g}"
            fix = "calibrate it again; a tensor of zeros is given scale 1"
            yield found("Q01", node, why, fix, tensor=node.input(1))


@checks("Q02")
def scales_fit_their_axis(view: View, target: Target) -> Iterator[Finding]:
    """A count of scales that is neither one nor the length of the axis."""
    for node in view.of(Q, DQ):
        scale, point = scale_of(view, node), zero_point_of(view, node)
        if scale is None or node.attribute("block_size", 0):
            continue
        if point is not None and point.size != scale.size:
            why = f"{scale.size} scales, but {point.size} zero points"
            yield found("Q02", node, why, "give both one shape", tensor=node.input(2))
        shape, axis = view.shape(node.input(0)), node.attribute("axis", 1)
        if scale.size == 1 or shape is None:
            continue
        if not -len(shape) <= axis < len(shape):
            why = f"axis {axis} of a tensor with {len(shape)} axes"
            yield found("Q02", node, why, "name the axis that the scales belong to")
        elif shape[axis] not in (None, scale.size):
            why = f"{scale.size} scales along axis {axis}, which is {shape[axis]} long"
            fix = "name the axis that the scales belong to"
            yield found("Q02", node, why, fix, tensor=node.input(1))


@checks("Q03")
def types_and_grids_agree(view: View, target: Target) -> Iterator[Finding]:
    """Zero points of another type than the codes; codes read with another grid than written."""
    for node in view.of(DQ):
        quantizer = view.pair(node)
        codes = view.kind(node.input(0)) if quantizer is None else codes_kind(view, quantizer)
        point = view.kind(node.input(2)) if node.input(2) else codes
        if TensorProto.UNDEFINED not in (codes, point) and codes != point:
            why = f"codes are {_name(codes)}, their zero point is {_name(point)}"
            yield found("Q03", node, why, "give both one type", tensor=node.input(2))
        elif quantizer is not None and not _agree(view, quantizer, node):
            why = f"it reads the codes of {quantizer.label} with another scale or zero point"
            yield found("Q03", node, why, "give both the same scale and zero point")


@checks("Q04")
def axes_count_from_the_front(view: View, target: Target) -> Iterator[Finding]:
    """Axes below zero, which TensorRT's parser and some passes do not expect."""
    for node in view.of(Q, DQ):
        scale, axis = scale_of(view, node), node.attribute("axis", 1)
        if axis < 0 and scale is not None and scale.size > 1:
            fix = "write it from the front; --fix does where the rank is known"
            yield found("Q04", node, f"axis {axis} is counted from the end", fix)


@checks("Q05")
def pairs_are_read(view: View, target: Target) -> Iterator[Finding]:
    """Q and DQ whose result nobody reads."""
    for node in view.of(Q, DQ):
        if not view.readers(node.result):
            yield found("Q05", node, "nothing reads it", "remove it; --fix does")


def _name(kind: int) -> str:
    known = kind in TensorProto.DataType.values()
    return TensorProto.DataType.Name(kind).lower() if known else f"of type {kind}"


def _agree(view: View, quantizer: Node, dequantizer: Node) -> bool:
    """Whether two nodes have one grid; what is computed at run time is trusted."""
    for index, values in ((1, scale_of), (2, zero_point_of)):
        if quantizer.input(index) == dequantizer.input(index):
            continue
        one, other = (values(view, each) for each in (quantizer, dequantizer))
        if index == 2:
            one, other = (
                np.zeros(1, np.int8) if values is None and not each.input(2) else values
                for each, values in ((quantizer, one), (dequantizer, other))
            )
        if one is None or other is None:
            continue
        if one.size != other.size and 1 not in (one.size, other.size):
            return False
        if not np.all(one.ravel() == other.ravel()):
            return False
    return True
