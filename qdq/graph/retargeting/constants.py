"""Constants that a file holds as integers, turned into floats that remember them."""

import re

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    is_output,
    maker_of,
    read_instead,
    remove,
    values_of,
)
from qdq.graph.retargeting.grids import HeldCodes
from qdq.records.retargeting import Loss

_KINDS = ("int8", "uint8")
_ROLE = re.compile(r"(input|weight|output|bias)(_\d+)?")


def take_constants(graph: gs.Graph) -> tuple[dict[str, HeldCodes], list[Loss]]:
    """Make float constants of every DQ of constant codes, or of constant floats behind Q, in place.

    Returns:
        (name of a float constant -> the integers it was; what stays as it is, and why)
    """
    constants: dict[str, HeldCodes] = {}
    losses: list[Loss] = []
    for node in [each for each in graph.nodes if each.op == DEQUANTIZE]:
        _take(graph, node, constants, losses)
    _turn(graph, constants)
    return constants, losses


def _take(
    graph: gs.Graph, node: gs.Node, constants: dict[str, HeldCodes], losses: list[Loss]
) -> None:
    quantize = maker_of(node.inputs[0])
    given = quantize is None and not isinstance(node.inputs[0], gs.Constant)  # codes are an input
    if given or (
        quantize is not None and (quantize.op != QUANTIZE or values_of(quantize, 0) is None)
    ):
        return
    held = _constant_codes(node, quantize)
    result = node.outputs[0]
    if held is None or is_output(graph, result):
        why = "its scales are none that 8-bit kernels have: it stays as it is"
        losses.append(Loss(node.name or result.name, "constant", why))
        return
    remove(graph, node)
    read_instead(result, gs.Constant(result.name, held.values()))
    constants[result.name] = held


def _constant_codes(node: gs.Node, quantize: gs.Node | None) -> HeldCodes | None:
    values = values_of(node if quantize is None else quantize, 0)
    scale, zero_point = values_of(node, 1), values_of(node, 2)
    if values is None or scale is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    if quantize is not None and (zero_point is None or not _agree(quantize, node)):
        return None
    if zero_point is None:
        zero_point = np.zeros(scale.shape, values.dtype)
    if node.attrs.get("block_size") or zero_point.size != scale.size:
        return None
    axis = None if scale.size == 1 else node.attrs.get("axis", 1)
    if axis is not None:
        if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
            return None
        axis %= values.ndim
    else:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    if not np.all((scale > 0) & np.isfinite(scale)):
        return None
    codes = values if quantize is None else _quantized(values, scale, zero_point, axis)
    if codes.dtype.name not in (*_KINDS, "int32") or codes.dtype != zero_point.dtype:
        return None
    return HeldCodes(codes, scale, zero_point, axis, site_of(node))


def _agree(quantize: gs.Node, dequantize: gs.Node) -> bool:
    """Whether Q and DQ have equal constants."""
    for index in (1, 2):
        one, other = values_of(quantize, index), values_of(dequantize, index)
        if one is None or other is None or one.dtype != other.dtype:
            return False
        if not np.array_equal(one, other):
            return False
    return bool(quantize.attrs.get("axis", 1) == dequantize.attrs.get("axis", 1))


def _quantized(values: Array, scale: Array, zero_point: Array, axis: int | None) -> Array:
    """Codes of constant floats: ONNX QuantizeLinear."""
    shape = [1] * values.ndim
    if axis is not None:
        shape[axis] = -1
    if zero_point.dtype.name not in _KINDS:
        return values
    ends = np.iinfo(zero_point.dtype)
    steps = np.rint(values / scale.reshape(shape)) + zero_point.reshape(shape).astype(np.float32)
    codes: Array = np.clip(steps, ends.min, ends.max).astype(zero_point.dtype)
    return codes.reshape(values.shape)


def _turn(graph: gs.Graph, constants: dict[str, HeldCodes]) -> None:
    """Transpose or Identity of a constant that was codes becomes a constant that was codes."""
    for node in [each for each in graph.nodes if each.op in ("Transpose", "Identity")]:
        held = constants.get(node.inputs[0].name)
        result = node.outputs[0]
        if held is None or is_output(graph, result):
            continue
        rank = held.codes.ndim
        plain = range(rank) if node.op == "Identity" else range(rank - 1, -1, -1)
        order = list(node.attrs.get("perm", plain))
        codes = np.ascontiguousarray(held.codes.transpose(order))
        axis = None if held.axis is None else order.index(held.axis)
        turned = HeldCodes(codes, held.scale, held.zero_point, axis, held.site)
        remove(graph, node)
        read_instead(result, gs.Constant(result.name, turned.values()))
        constants[result.name] = turned


def site_of(node: gs.Node) -> str:
    """The site that a Q or DQ of ours is called after; "" of any other."""
    site, slash, _ = node.name.partition("/")
    return site if slash and _ROLE.fullmatch(site.rpartition(".")[2]) else ""
