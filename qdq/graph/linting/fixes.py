"""What can be mended without changing one value that a file computes, a function per rule.

Each function rewrites every place it is sure of in one go, and leaves the others. They run in turn
until none finds anything more.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from onnx import ModelProto, TensorProto, helper

from qdq.graph.linting.bounds import bounds
from qdq.graph.linting.edits import Edits, is_read_by_nodes_only, readers_are_dq, zeros_like
from qdq.graph.linting.grids import (
    ENDS,
    codes_kind,
    same_grid,
    scale_of,
    weights,
    zero_point_of,
)
from qdq.graph.linting.nodes import COPIES, DQ, WEIGHTED, Array, Node, Q
from qdq.graph.linting.onnxruntime_operators import MOVES, readers_of_int8
from qdq.graph.linting.view import View
from qdq.registry import Registry
from qdq.targets import Target
from qdq.targets.rules import RULES

Fix: TypeAlias = Callable[[View, Edits], None]
_ROUNDS = 50  # each one mends at least one node; real files need two or three
_INITIALIZERS_ALONE = 4  # the IR version from which an initializer need not be an input too

FIXES: Registry[str, Fix] = Registry("fix")  # by the id of the rule


def mend(model: ModelProto, target: Target) -> None:
    """Apply every fix of the target's rules to the main graph, in place."""
    if model.ir_version < _INITIALIZERS_ALONE:
        return
    fixes = [fix for rule, fix in FIXES.items() if _holds(rule, target)]
    edits, view = Edits(model), View(model)
    for _ in range(_ROUNDS):
        at_start = edits.count
        for fix in fixes:
            before = edits.count
            with np.errstate(all="ignore"):  # scales may be any numbers
                fix(view, edits)
            view = view if edits.count == before else View(model)
        if edits.count == at_start:
            break
    edits.forget_unread()


def _holds(rule: str, target: Target) -> bool:
    """Whether a rule is one of the target's, and of this variant of it."""
    asked = {"T06": target.float_weights, "O27": not target.signed_kernels}
    return RULES[rule].target in ("", target.name) and asked.get(rule, True)


@FIXES.add("Q04")
def count_axes_from_the_front(view: View, edits: Edits) -> None:
    """Axis -1 of a tensor with four axes is axis 3."""
    for node in view.of(Q, DQ):
        axis = node.attribute("axis", 1)
        shape = view.shape(node.input(0)) if axis < 0 else None
        if shape is not None and -len(shape) <= axis:
            edits.set_attribute(node, "axis", axis + len(shape))


@FIXES.add("T22")
def write_biases_as_float(view: View, edits: Edits) -> None:
    """A constant int32 bias and its DQ become the floats that the DQ computes."""
    for layer in view.of(*sorted(WEIGHTED - {"MatMul"})):
        node = view.dq(layer.input(2)) if layer.input(2) else None
        if node is None or view.op(layer.input(2)) != DQ:
            continue
        codes, scale = view.value(node.input(0)), scale_of(view, node)
        point = zero_point_of(view, node)
        if codes is None or scale is None or scale.dtype != np.float32 or codes.ndim > 1:
            continue
        if scale.size not in (1, codes.size) or (point is not None and point.any()):
            continue
        values = codes.astype(np.float32) * scale.reshape(-1 if scale.size > 1 else ())
        edits.feed(layer, 2, edits.hold(f"{layer.input(2)}.float", values))


@FIXES.add("T02")
def shift_codes_to_int8(view: View, edits: Edits) -> None:
    """Uint8 codes with zero point 128 become int8 codes with zero point 0, 128 less each."""
    for node in view.of(Q):
        readers = readers_are_dq(view, node.result)
        if readers and all(_is_centred(view, each) for each in (node, *readers)):
            for each in (node, *readers):
                _give_zero(view, edits, each)
            edits.set_attribute(node, "output_dtype", TensorProto.INT8)
            edits.forget_type(node.result)
    for node in view.of(DQ):
        codes = view.value(node.input(0))
        if codes is not None and codes.dtype == np.uint8 and _is_centred(view, node):
            shifted = (codes.astype(np.int16) - 128).astype(np.int8)
            edits.feed(node, 0, edits.hold(f"{node.input(0)}.int8", shifted))
            _give_zero(view, edits, node)


@FIXES.add("T06")
def write_weights_as_float(view: View, edits: Edits) -> None:
    """The codes of a weight become the floats that they stand for, in front of a Q."""
    for weight in weights(view):
        node, scale, point = weight.dq, scale_of(view, weight.dq), zero_point_of(view, weight.dq)
        codes = view.value(node.input(0))
        if codes is None or codes.dtype != np.int8 or not _comes_back(scale):
            continue
        if scale is None or point is None or point.any() or point.size != scale.size:
            continue
        shape = [1] * codes.ndim
        axis = node.attribute("axis", 1) % codes.ndim
        shape[axis] = scale.size if scale.size > 1 else 1
        values = codes.astype(np.float32) * scale.reshape(shape)
        held = edits.hold(f"{node.input(0)}.float", values)
        edits.put_in_front(node, Q, held, *node.inputs[1:3], axis=axis)


@FIXES.add("O27")
def shift_codes_to_uint8(view: View, edits: Edits) -> None:
    """Int8 codes of an activation with several readers become uint8 codes, 128 more each."""
    for node in view.of(Q):
        readers = None if view.is_constant(node.input(0)) else readers_are_dq(view, node.result)
        if not readers or readers_of_int8(view, node) < 2:
            continue
        points = [zero_point_of(view, each) for each in (node, *readers)]
        if any(each is None or each.dtype != np.int8 for each in points):
            continue
        for each, point in zip((node, *readers), points, strict=True):
            shifted = (np.asarray(point, np.int16) + 128).astype(np.uint8)
            edits.feed(each, 2, edits.hold(f"{each.input(2)}.uint8", shifted))
        edits.set_attribute(node, "output_dtype", TensorProto.UINT8)
        edits.forget_type(node.result)


@FIXES.add("T14")
def remove_second_pairs(view: View, edits: Edits) -> None:
    """A pair behind what moves the values of an equal pair rounds nothing any more."""
    for node in view.of(Q):
        tensor = node.input(0)
        ahead = None if view.is_constant(tensor) else view.dq(tensor, COPIES - {"Dropout"})
        if ahead is None or not _rounds_nothing(view, ahead, node):
            continue
        readers = readers_are_dq(view, node.result)
        if view.op(tensor) != DQ and (scale := scale_of(view, node)) is not None and scale.size > 1:
            continue
        for each in readers or []:
            if same_grid(view, node, each) and is_read_by_nodes_only(view, each.result):
                edits.redirect(view, each.result, tensor)


@FIXES.add("O19")
def reuse_codes(view: View, edits: Edits) -> None:
    """A Q right behind a DQ of the same grid gives the codes that are there already."""
    for node in view.of(Q):
        ahead = None if view.is_constant(node.input(0)) else view.dq(node.input(0))
        if ahead is None or not _rounds_nothing(view, ahead, node):
            continue
        if is_read_by_nodes_only(view, node.result):
            edits.redirect(view, node.result, ahead.input(0))


@FIXES.add("O17")
def merge_equal_quantizers(view: View, edits: Edits) -> None:
    """Several Q of one tensor with one grid become one."""
    first: dict[str, list[Node]] = {}
    for node in view.of(Q):
        known = first.setdefault(node.input(0), [])
        twin = next((each for each in known if same_grid(view, each, node)), None)
        if twin is None:
            known.append(node)
        elif view.readers(node.result) and is_read_by_nodes_only(view, node.result):
            edits.redirect(view, node.result, twin.result)


@FIXES.add("O23")
def write_zero_points(view: View, edits: Edits) -> None:
    """A zero point that is left out is 0, of the type of the codes."""
    for node in view.of(Q, DQ):
        scale, kind = scale_of(view, node), codes_kind(view, node)
        if node.input(2) or scale is None or kind not in ENDS or kind == TensorProto.INT32:
            continue
        if kind in (TensorProto.INT4, TensorProto.UINT4):
            continue
        zeros = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(kind))
        edits.feed(node, 2, edits.hold(f"{node.input(1)}.zero_point", zeros))


@FIXES.add("O04")
def lower_zero_points(view: View, edits: Edits) -> None:
    """Behind a ReLU the zero point becomes the lowest code, where no value is clipped by the grid.

    Codes below the zero point are never used then, and those above suffice; each code moves by the
    same amount. The pairs that moved codes go through move along.
    """
    for node in view.of(Q):
        if view.op(node.input(0)) != "Relu" or not _is_never_clipped(view, node):
            continue
        together = _of_one_grid(view, node)
        lowest = ENDS[codes_kind(view, node)][0]
        for each in together or []:
            point = zero_point_of(view, each)
            if point is not None:
                lowered = edits.hold(f"{each.input(2)}.lowest", np.full_like(point, lowest))
                edits.feed(each, 2, lowered)


@FIXES.add("Q05")
def remove_unread_pairs(view: View, edits: Edits) -> None:
    """Q and DQ that nothing reads go."""
    unread = [node for node in view.of(Q, DQ) if not view.readers(node.result)]
    if unread:
        edits.remove(unread)


def _is_centred(view: View, node: Node) -> bool:
    """Whether codes are uint8 around 128."""
    point = zero_point_of(view, node)
    kind = codes_kind(view, node)
    return kind == TensorProto.UINT8 and point is not None and bool(np.all(point == 128))


def _give_zero(view: View, edits: Edits, node: Node) -> None:
    point = zero_point_of(view, node)
    if point is not None:
        zeros = zeros_like(point, np.int8)
        edits.feed(node, 2, edits.hold(f"{node.input(2)}.int8", zeros))


def _rounds_nothing(view: View, ahead: Node, node: Node) -> bool:
    """Whether a Q gives back exactly the codes that a DQ was given.

    (c * s) / s is off by less than |c| / 2^22 in float32, and rounds to c for all of 16 bits.
    """
    scale, kind = scale_of(view, node), codes_kind(view, node)
    known = kind in ENDS and kind != TensorProto.INT32
    return known and _comes_back(scale) and same_grid(view, ahead, node)


def _comes_back(scale: Array | None) -> bool:
    """Whether every code of 16 bits is found again in c * s, see `_rounds_nothing`."""
    if scale is None or scale.dtype != np.float32:
        return False
    tiny, huge = np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max / 2**17
    return bool(np.all((scale >= tiny) & (scale <= huge)))


def _is_never_clipped(view: View, node: Node) -> bool:
    """Whether a Q of one scale has a zero point above its lowest code, and all codes it needs."""
    scale, point = scale_of(view, node), zero_point_of(view, node)
    codes, span = ENDS.get(codes_kind(view, node)), bounds(view, node.input(0))
    if scale is None or point is None or codes is None or span is None:
        return False
    if scale.size != 1 or scale.dtype != np.float32 or not scale.ravel()[0] > 0:
        return False
    middle = int(point.ravel()[0])
    steps = np.rint(np.float32(span[1]) / scale.ravel()[0])
    return middle > codes[0] and bool(steps + middle <= codes[1])


def _of_one_grid(view: View, first: Node) -> list[Node] | None:
    """A Q, its DQ, and the pairs of the same grid behind what moves their codes.

    None if codes leave in another way.
    """
    found, work = [], [first]
    while work:
        node = work.pop()
        readers = readers_are_dq(view, node.result)
        if readers is None or not all(same_grid(view, first, each) for each in readers):
            return None
        found += [node, *readers]
        for each in readers:
            for use in view.uses(each.result, MOVES - {"Split"}):
                onward = use.node if use.op == Q and use.node not in found else None
                if onward is not None and same_grid(view, first, onward):
                    work.append(onward)
    return found
