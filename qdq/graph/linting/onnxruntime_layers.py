"""onnxruntime's rules on layers with weights: O01, O02, O04-O07, O15-O17, O20, O24-O26."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.grids import ENDS, codes_kind, ends, scale_of, weight_codes, weights
from qdq.graph.linting.nodes import MOVERS, Array, Node, Q
from qdq.graph.linting.onnxruntime_operators import (
    MOVES,
    decoder,
    ends_an_integer_operator,
    readers_left,
)
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target

_FACTORS = {"Conv": "O01", "Gemm": "O16", "MatMul": "O15"}
_AXES = {"Conv": "O07", "Gemm": "O16", "MatMul": "O15"}
_KEEPS_FLOAT = frozenset({
    "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "Tanh", "PRelu", "Selu", "Celu",
    "Softplus", "Mish", "Gelu", "Erf",
})  # fmt: skip
_INT32 = 2**31 - 1
_BOTH = "quantize both factors, or neither"


@checks("O01", "O15", "O16", "O26")
def all_factors_or_none(view: View, target: Target) -> Iterator[Finding]:
    """Products of dequantized codes and floats."""
    for node in view.of(*_FACTORS):
        held = [view.dq(name, MOVERS) for name in node.inputs[:2]]
        if len(held) < 2 or None not in held or held == [None, None]:
            continue
        missing = node.inputs[held.index(None)]
        why = f"{missing} is float, the other factor int8"
        if node.op == "Conv" and view.is_constant(missing) and _reaches_a_quantizer(view, node):
            why = f"its weight {missing} is float between DQ and Q"
            fix = "write the weight as int8 codes and DQ, or remove the pair in front"
            yield found("O26", node, why, fix, tensor=missing)
        elif held[0] is None or not ends_an_integer_operator(view, held[0]):
            yield found(_FACTORS[node.op], node, why, _BOTH, tensor=missing)


@checks("O02", "O04", "O05", "O06", "O17", "O20")
def convolutions_give_codes(view: View, target: Target) -> Iterator[Finding]:
    """Convs whose result does not go into one Q, at most through a ReLU or Clip."""
    for node in view.of("Conv"):
        if len(view.quantized(node)) < 2 or view.dq(node.input(1), MOVERS) is None:
            continue
        readers = readers_left(view, node.result)
        if len(readers) != 1:
            yield _read_often(view, node, readers_of_q=any(use.op == Q for use in readers))
            continue
        reader = readers[0].node
        if reader is None:
            yield found("O02", node, "an output of the graph reads it as float", "put a pair there")
        elif reader.op in ("Relu", "Clip"):
            yield from _clamp_is_dropped(view, node, reader)
        elif reader.op == "BatchNormalization":
            fix = "fold it into the Conv before quantizing"
            yield found("O20", node, f"{reader.label} behind it is not folded", fix)
        elif reader.op in _KEEPS_FLOAT:
            fix = f"put a pair in front of {reader.op}"
            yield found("O06", node, f"{reader.op} stands between it and its Q", fix)
        elif reader.op != Q:
            yield found("O02", node, f"{reader.op} reads it as float", "put a pair behind the Conv")


@checks("O04", "O05", "O15", "O16", "O17")
def products_have_one_reader(view: View, target: Target) -> Iterator[Finding]:
    """Gemm and MatMul run in integers with a Q behind them and without, but not with both.

    With a ReLU or Clip behind them they run float, unless a Q follows that does its work.
    """
    for node in view.of("Gemm", "MatMul"):
        readers = readers_left(view, node.result)
        both = all(view.dq(name, MOVERS) is not None for name in node.inputs[:2])
        if not both:
            continue
        if len(readers) > 1 and any(use.op == Q for use in readers):
            yield _read_often(view, node, readers_of_q=True)
        clamp = readers[0].node if len(readers) == 1 else None
        if clamp is not None and clamp.op in ("Relu", "Clip"):
            behind = readers_left(view, clamp.result)
            if len(behind) == 1 and behind[0].op == Q:
                yield from _clamp_is_dropped(view, node, clamp)
            elif len(behind) == 1 and behind[0].node is not None:
                why = f"{clamp.op} behind it is read as float by {behind[0].op} alone"
                fix = f"put a pair behind {clamp.op}, or a one-input Sum in front of it"
                yield found(_FACTORS[node.op], node, why, fix, tensor=clamp.result)


@checks("O07", "O15", "O16")
def weight_scales_follow_the_channels(view: View, target: Target) -> Iterator[Finding]:
    """Scales along an axis that the integer kernel sums over."""
    for weight in weights(view):
        rule = _AXES.get(weight.layer.op)
        if rule is not None and weight.axis not in (None, weight.channel_axis):
            why = f"weight scales along axis {weight.axis} instead of {weight.channel_axis}"
            fix = f"quantize this weight along axis {weight.channel_axis}"
            yield found(rule, weight.layer, why, fix, tensor=weight.dq.input(1))


@checks("O07", "O16")
def biases_are_int32(view: View, target: Target) -> Iterator[Finding]:
    """Float biases, which are quantized at run time, and int32 ones of a wrong scale."""
    for weight in weights(view):
        node, ahead = weight.layer, view.dq(weight.layer.input(0), MOVERS)
        if node.op not in ("Conv", "Gemm") or not node.input(2) or ahead is None:
            continue
        bias = decoder(view, node.input(2))
        if bias is None or codes_kind(view, bias) != TensorProto.INT32:
            fused = any(use.op == Q for use in view.uses(node.result, {"Relu", "Clip", "Identity"}))
            runs = "it is quantized at run time" if fused else "the layer runs float"
            yield found(
                "O16" if node.op == "Gemm" else "O07",
                node,
                f"its bias is not int32: {runs}",
                "write it as int32 codes and DQ of scale s_x * s_w",
                tensor=node.input(2),
                severity="note" if fused else "warning",
            )
            continue
        if not _is_product(*(scale_of(view, each) for each in (ahead, weight.dq, bias))):
            why = "the scale of its bias is not that of its input times that of its weight"
            fix = "quantize the bias anew with s_x * s_w"
            yield found("O07", node, why, fix, tensor=bias.input(1))


@checks("O16")
def gemm_is_plain(view: View, target: Target) -> Iterator[Finding]:
    """Gemms with beta or transA."""
    for node in view.of("Gemm"):
        beta, turned = node.attribute("beta", 1.0), node.attribute("transA", 0)
        if len(view.quantized(node)) > 1 and (turned or beta != 1):
            fix = "multiply the bias by beta, and transpose in front"
            yield found("O16", node, f"beta={beta:g} transA={turned}", fix)


@checks("O15")
def signed_input_has_signed_weight(view: View, target: Target) -> Iterator[Finding]:
    """A MatMul of int8 by uint8."""
    for node in view.of("MatMul"):
        held = [view.dq(name, MOVERS) for name in node.inputs]
        kinds = [codes_kind(view, each) for each in held if each is not None]
        if kinds == [TensorProto.INT8, TensorProto.UINT8]:
            yield found("O15", node, "int8 times uint8", "give both uint8, or the second int8")


@checks("O24")
def weights_have_seven_bits(view: View, target: Target) -> Iterator[Finding]:
    """Weights beyond the width of the target, where that is below 8 bits (no VNNI)."""
    if target.weight.bits >= 8:
        return
    for weight in weights(view):
        codes = weight_codes(view, weight.dq)
        most = 0 if codes is None or not codes.size else int(np.abs(codes.astype(np.int64)).max())
        if most > target.weight.qmax + 1:
            why = f"weight codes reach {most}, and {target.weight.qmax} is what cannot saturate"
            fix = f"quantize weights with {target.weight.bits} bits (reduce_range)"
            yield found("O24", weight.layer, why, fix, tensor=weight.dq.input(0))


@checks("O25")
def integers_do_not_overflow(view: View, target: Target) -> Iterator[Finding]:
    """Biases cut off at the end of int32, and sums that can leave it."""
    for weight in weights(view):
        node, codes = weight.layer, weight_codes(view, weight.dq)
        bias = decoder(view, node.input(2)) if node.op in ("Conv", "Gemm") else None
        held = view.value(bias.input(0)) if bias is not None else None
        most = 0 if held is None or not held.size else int(np.abs(held.astype(np.int64)).max())
        why = ""
        if most >= _INT32:
            why = "codes of its bias are cut off at the end of int32"
        elif codes is not None and codes.size and node.op == "Conv":
            sums = np.abs(codes.astype(np.int64)).reshape(codes.shape[0], -1).sum(1)
            if int(sums.max()) * _span(view, node) + most > _INT32:
                why = "its sums can leave int32"
        if why:
            yield found("O25", node, why, "widen the scale of its weight, and with it of its bias")


def _reaches_a_quantizer(view: View, node: Node) -> bool:
    return any(use.op == Q for use in view.uses(node.result, {"Relu", "Clip", *MOVES}))


def _read_often(view: View, node: Node, *, readers_of_q: bool) -> Finding:
    readers = readers_left(view, node.result)
    if not readers_of_q:
        count = len(readers) or "no"
        return found("O02", node, f"{count} readers, and no Q behind it", "put one pair behind it")
    names = ", ".join(use.op or "an output of the graph" for use in readers)
    fix = "let all read one pair; --fix merges equal ones"
    return found("O17", node, f"its output is read {len(readers)} times: {names}", fix)


def _clamp_is_dropped(view: View, layer: Node, clamp: Node) -> Iterator[Finding]:
    """A ReLU or Clip goes where the codes behind it cannot hold more than it lets pass."""
    readers = readers_left(view, clamp.result)
    quantizers = [use.node for use in readers if use.op == Q and use.node is not None]
    if len(readers) != 1 or not quantizers:
        rule = "O17" if quantizers else "O02"
        why = f"{clamp.op} behind it is read as float"
        yield found(rule, layer, why, f"let all readers of {clamp.op} read one pair")
        return
    span = ends(view, quantizers[0])
    if span is None:
        return  # O23 speaks of that
    low, high = span
    if clamp.op == "Relu":
        if low < 0:
            why = f"codes behind its Relu reach down to {low:g}"
            yield found("O04", layer, why, _fix_of(view, quantizers[0]), tensor=clamp.result)
        return
    least, most = _limits(view, clamp)
    half = (high - low) / 2 / 255
    if low < least - half or high > most + half:
        why = f"codes reach {low:g}..{high:g}, its Clip {least:g}..{most:g}"
        fix = "let the codes end where the Clip does"
        yield found("O05", layer, why, fix, tensor=clamp.result)


def _fix_of(view: View, quantizer: Node) -> str:
    lowest = ENDS.get(codes_kind(view, quantizer), (0, 0))[0]
    return f"quantize with zero point {lowest}; --fix does where no value is clipped by it"


def _limits(view: View, clip: Node) -> tuple[float, float]:
    """What a Clip lets pass; its limits were attributes before opset 11."""
    ends_ = []
    for index, name, otherwise in ((1, "min", -np.inf), (2, "max", np.inf)):
        held = view.value(clip.input(index)) if clip.input(index) else None
        said = float(held.ravel()[0]) if held is not None and held.size else otherwise
        ends_.append(clip.attribute(name, said))
    return ends_[0], ends_[1]


def _is_product(x: Array | None, w: Array | None, b: Array | None) -> bool:
    """Whether a bias has the scale of input times weight; unknown ones are trusted."""
    if x is None or w is None or b is None or x.size != 1:
        return True
    if b.size not in (1, w.size):
        return False
    wanted = np.asarray(x, np.float64).ravel() * np.asarray(w, np.float64).ravel()
    return bool(np.allclose(np.asarray(b, np.float64).ravel(), wanted, rtol=1e-6, atol=0))


def _span(view: View, node: Node) -> int:
    """How far the codes of a layer's input lie from their zero point at most."""
    ahead = view.dq(node.input(0), MOVERS)
    low, high = ENDS.get(TensorProto.UINT8 if ahead is None else codes_kind(view, ahead), (0, 255))
    return high - low
