"""TensorRT's rules on types, scales, axes, opsets and biases: T01-T07, T15, T22."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.grids import (
    Weight,
    codes_kind,
    same_grid,
    scale_of,
    weights,
    zero_point_of,
)
from qdq.graph.linting.nodes import DQ, WEIGHTED, Node, Q
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target

_REFUSED: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.INT16: "int16",
    TensorProto.UINT4: "uint4",
}
# The opset from which Q and DQ know a type.
_SINCE: dict[int, int] = {
    TensorProto.FLOAT8E4M3FN: 19,
    TensorProto.FLOAT8E4M3FNUZ: 19,
    TensorProto.FLOAT8E5M2: 19,
    TensorProto.FLOAT8E5M2FNUZ: 19,
    TensorProto.INT4: 21,
    TensorProto.UINT4: 21,
    TensorProto.FLOAT4E2M1: 23,
}
_PER_CHANNEL_SINCE = 13
# ONNX's operators on integers, and those of onnxruntime's own.
_ON_INTEGERS = frozenset(
    {
        "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear",
        "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool",
        "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
        "QLinearReduceMean", "QLinearWhere", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
        "QAttention", "DynamicQuantizeLSTM",
    }
)  # fmt: skip


@checks("T01", "T02")
def codes_are_symmetric_int8(view: View, target: Target) -> Iterator[Finding]:
    """Zero points other than 0, and codes other than int8; of a pair its Q is named."""
    for node in view.of(Q, DQ):
        if node.op == DQ and view.pair(node) is not None:
            continue
        point, kind = zero_point_of(view, node), codes_kind(view, node)
        mends = kind == TensorProto.UINT8 and point is not None and bool(np.all(point == 128))
        help_ = "; --fix shifts codes and zero point by 128" if mends else ""
        if point is not None and np.any(point.astype(np.float64) != 0):
            first = point.ravel()[np.flatnonzero(point.astype(np.float64))[0]]
            fix = f"calibrate it symmetrically, with zero point 0{help_}"
            yield found("T01", node, f"zero point {first}", fix, tensor=node.input(2))
        if kind in _REFUSED:
            yield found("T02", node, f"codes are {_REFUSED[kind]}", f"write int8 codes{help_}")


@checks("T03")
def scales_are_one_or_per_channel(view: View, target: Target) -> Iterator[Finding]:
    """Activations with many scales, weights with one."""
    for node in view.of(Q):
        scale = scale_of(view, node)
        if scale is not None and scale.size > 1 and not view.is_constant(node.input(0)):
            why = f"{scale.size} scales for the activation {node.input(0)}"
            yield found("T03", node, why, "calibrate it per tensor", tensor=node.input(1))
    for weight in weights(view):
        if weight.axis is None and weight.channels > 1 and scale_of(view, weight.dq) is not None:
            why = f"one scale for {weight.channels} output channels"
            fix = f"keep a scale per entry of axis {_scale_axis(weight, target)}"
            yield found("T03", weight.layer, why, fix, tensor=weight.dq.input(1))


@checks("T04")
def weight_scales_follow_the_channels(view: View, target: Target) -> Iterator[Finding]:
    """Scales along an axis that is summed over."""
    for weight in weights(view):
        want = _scale_axis(weight, target)
        if weight.axis not in (None, want):
            why = f"weight scales along axis {weight.axis} instead of {want}"
            channels = ", that of its output channels" if want == weight.channel_axis else ""
            fix = f"quantize this weight along axis {want}{channels}"
            yield found("T04", weight.layer, why, fix, tensor=weight.dq.input(1))


@checks("T05")
def the_opset_knows_the_codes(view: View, target: Target) -> Iterator[Finding]:
    """Scales per channel, FP8, INT4 or FP4 in a file of an opset before them."""
    for node in view.of(Q, DQ):
        scale = scale_of(view, node)
        many = scale is not None and scale.size > 1
        needed = max(_SINCE.get(codes_kind(view, node), 0), _PER_CHANNEL_SINCE if many else 0)
        if view.opset < needed:
            why = f"it needs opset {needed}, the file has {view.opset}"
            yield found("T05", node, why, f"export with opset {needed} or higher")


@checks("T06")
def weights_have_the_form_that_is_read(view: View, target: Target) -> Iterator[Finding]:
    """Weights that are codes and a DQ, where the target reads floats in front of Q."""
    for weight in weights(view) if target.float_weights else ():
        if view.pair(weight.dq) is None:
            why = f"its weight is codes, and {target.label} reads floats in front of Q and DQ"
            fix = "write it as float with Q and DQ; --fix does"
            tensor = weight.dq.input(0)
            yield found("T06", weight.layer, why, fix, tensor=tensor, severity="error")


@checks("T07")
def no_operators_on_integers(view: View, target: Target) -> Iterator[Finding]:
    """QLinearConv and its kin."""
    for node in view.of(*sorted(_ON_INTEGERS)):
        why = f"{node.op} computes on integers, and TensorRT reads Q/DQ only"
        yield found(
            "T07", node, why, "export in Q/DQ form: quant_format=QDQ in onnxruntime's tools"
        )


@checks("T15")
def readers_of_a_tensor_agree_on_its_scale(view: View, target: Target) -> Iterator[Finding]:
    """Several Q of one tensor with different scales."""
    first: dict[str, Node] = {}
    for node in view.of(Q):
        if view.is_constant(node.input(0)):
            continue
        one = first.setdefault(node.input(0), node)
        if one is not node and not same_grid(view, one, node):
            why = f"a second scale for {node.input(0)}, which {one.label} quantizes too"
            yield found("T15", node, why, "give both the same range", tensor=node.input(0))


@checks("T22")
def biases_are_float(view: View, target: Target) -> Iterator[Finding]:
    """Quantized biases."""
    for node in view.of(*WEIGHTED - {"MatMul"}):
        bias = view.dq(node.input(2)) if node.input(2) else None
        if bias is not None:
            held = view.value(bias.input(0)) is not None
            fix = "write it as float" + ("; --fix does" if held else "")
            yield found("T22", node, "its bias is quantized", fix, tensor=node.input(2))


def _scale_axis(weight: Weight, target: Target) -> int:
    """The axis along which a weight may have scales, by the version that reads it."""
    transposed = weight.layer.op == "ConvTranspose"
    return target.transposed_axis if transposed else weight.channel_axis
