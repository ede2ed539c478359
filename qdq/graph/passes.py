"""Exact rewrites of a lowered Q/DQ graph, one function each, in place, in the order of `PASSES`.

Each keeps what the graph computes, bit for bit in unoptimized execution.
"""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, bypass, hold, maker_of, remove, same_grid

# Ops that move or pick codes without computing on them, so that Q commutes with them (O12, T14).
COMMUTING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def fold_transposed_weights(graph: gs.Graph) -> None:
    """Transpose(DQ(constant codes)) becomes DQ of the transposed codes (O15: MatMul, axis 1)."""
    for node in list(graph.nodes):
        if node.op != "Transpose" or not node.inputs:
            continue
        dequantize = maker_of(node.inputs[0])
        if dequantize is None or dequantize.op != DEQUANTIZE:
            continue
        twins = list(node.inputs[0].outputs)
        if any(each.op != "Transpose" or each.attrs != node.attrs for each in twins):
            continue
        codes = dequantize.inputs[0]
        if not isinstance(codes, gs.Constant):
            continue
        order = list(node.attrs.get("perm", reversed(range(codes.values.ndim))))
        codes.values = np.ascontiguousarray(codes.values.transpose(order))
        if dequantize.inputs[1].values.ndim:
            dequantize.attrs["axis"] = order.index(dequantize.attrs["axis"])
        name, result = node.inputs[0].name, node.outputs[0]
        remove(graph, node)
        if result not in graph.outputs:
            result.name = name  # the site is found by it
        dequantize.outputs = [result]
        for twin in twins:
            if twin is not node:
                bypass(graph, twin, result)


def pick_codes(graph: gs.Graph) -> None:
    """Gather(DQ(constant codes)) becomes DQ(Gather(codes)): only what is picked is dequantized.

    onnxruntime would dequantize the whole table in every run.
    """
    for node in [each for each in graph.nodes if each.op == "Gather"]:
        values, result = node.inputs[0], node.outputs[0]
        dequantize = maker_of(values)
        if dequantize is None or dequantize.op != DEQUANTIZE or dequantize.inputs[1].values.ndim:
            continue
        codes, *grid = dequantize.inputs
        if not isinstance(codes, gs.Constant):
            continue
        picked = gs.Variable(f"{result.name}.codes", codes.values.dtype, result.shape)
        node.inputs[0], node.outputs = codes, [picked]
        name = f"{node.name}/{DEQUANTIZE}"
        graph.nodes.append(gs.Node(DEQUANTIZE, name, {}, [picked, *grid], [result]))
        if not values.outputs and result not in graph.outputs:
            dequantize.outputs.clear()
            result.name = values.name  # the site is found by it


def quantize_before_commuting(graph: gs.Graph) -> None:
    """MaxPool, Reshape, ... in front of a Q get a pair of their own in front, with its scale.

    So the op before them leaves through a Q and runs in integers (O02), and they run on codes.
    """
    work = [node for node in graph.nodes if node.op == QUANTIZE]
    while work:
        quantize = work.pop()
        mover = maker_of(quantize.inputs[0])
        if mover is None or not _commutes(mover) or not _only_read_here(graph, mover):
            continue
        source = mover.inputs[0]
        maker = maker_of(source)
        if maker is None or maker.op == DEQUANTIZE or quantize.inputs[1].values.ndim:
            continue
        if _only_read_here(graph, maker):
            work.append(_insert_pair(graph, quantize, mover))


def _commutes(node: gs.Node) -> bool:
    """Whether it moves or picks values; of a Resize only the nearest does."""
    nearest = node.op == "Resize" and node.attrs.get("mode", "nearest") == "nearest"
    return nearest or node.op in COMMUTING


def _only_read_here(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether the node makes one tensor, whose values are read once and are no output."""
    result = node.outputs[0]
    readers = [each for each in result.outputs if each.op != "Shape"]
    return len(node.outputs) == 1 and len(readers) == 1 and result not in graph.outputs


def ask_codes_for_shape(graph: gs.Graph) -> None:
    """Shape of what a Q reads is asked of its codes: another reader would block fusion (O17)."""
    for quantize in [node for node in graph.nodes if node.op == QUANTIZE]:
        for reader in [each for each in quantize.inputs[0].outputs if each.op == "Shape"]:
            reader.inputs[0] = quantize.outputs[0]


def _insert_pair(graph: gs.Graph, like: gs.Node, before: gs.Node) -> gs.Node:
    """A Q and DQ with the operands of `like` on the first input of `before`; gives the Q."""
    source = before.inputs[0]
    stem = f"{like.name.rpartition('/')[0]}/before_{before.op}"
    taken = sum(1 for node in graph.nodes if node.name.startswith(f"{stem}/{QUANTIZE}"))
    stem = f"{stem}_{taken}" if taken else stem
    code_type = like.inputs[2].values.dtype
    codes = gs.Variable(f"{stem}.codes", code_type, source.shape)
    values = gs.Variable(f"{stem}.values", source.dtype, source.shape)
    quantize = gs.Node(QUANTIZE, f"{stem}/{QUANTIZE}", {}, [source, *like.inputs[1:]], [codes])
    dequantize = gs.Node(
        DEQUANTIZE, f"{stem}/{DEQUANTIZE}", {}, [codes, *like.inputs[1:]], [values]
    )
    before.inputs[0] = values
    graph.nodes.extend([quantize, dequantize])
    return quantize


def merge_equal_pairs(graph: gs.Graph) -> None:
    """Several Q of one tensor with equal scales become one (O17: two Q block the fusion)."""
    for tensor in list(graph.tensors().values()):
        first: list[gs.Node] = []
        for node in [each for each in tensor.outputs if _quantizes(each, tensor)]:
            twin = next((each for each in first if same_grid(each, node)), None)
            if twin is None:
                first.append(node)
                continue
            bypass(graph, node, twin.outputs[0])


def _quantizes(node: gs.Node, tensor: gs.Tensor) -> bool:
    return node.op == QUANTIZE and node.inputs[0] is tensor


def drop_requantization(graph: gs.Graph) -> None:
    """Q right after a DQ of the same grid: the codes are there already (O19)."""
    for node in list(graph.nodes):
        before = maker_of(node.inputs[0]) if node.op == QUANTIZE else None
        if before is None or before.op != DEQUANTIZE or not same_grid(before, node):
            continue
        bypass(graph, node, before.inputs[0])


def drop_idle_relu(graph: gs.Graph) -> None:
    """Relu of a DQ whose zero point is the lowest code: no value is negative (O03)."""
    for node in list(graph.nodes):
        before = maker_of(node.inputs[0]) if node.op == "Relu" else None
        if before is None or before.op != DEQUANTIZE or len(before.inputs) < 3:
            continue
        zero_point = before.inputs[2].values
        if np.any(zero_point != np.iinfo(zero_point.dtype).min) or node.outputs[0] in graph.outputs:
            continue
        bypass(graph, node, before.outputs[0])


def keep_float(graph: gs.Graph) -> None:
    """A one-input Sum behind each float layer that stands between DQ and Q.

    onnxruntime would otherwise quantize its weight by itself, per tensor (O26). It moves a DQ
    over commuting ops first, and a Q too.
    """
    leading_to_q = (QUANTIZE, "Relu", "Clip")
    for node in [each for each in graph.nodes if each.op in _WEIGHTED]:
        feeder, weight_maker = maker_of(node.inputs[0]), maker_of(node.inputs[1])
        while feeder is not None and _commutes(feeder):
            feeder = maker_of(feeder.inputs[0])
        if weight_maker is not None or feeder is None or feeder.op != DEQUANTIZE:
            continue
        if any(each.op in leading_to_q or _commutes(each) for each in node.outputs[0].outputs):
            hold(graph, node)


def sum_behind_products(graph: gs.Graph) -> None:
    """The Add behind a MatMul with a quantized weight becomes a Sum, which computes the same.

    onnxruntime makes a Gemm of MatMul and Add before it looks for Q/DQ, and a Gemm with a float
    bias or matrix runs float and dequantizes its weight in every run (O16).
    """
    for add in [each for each in graph.nodes if each.op == "Add"]:
        makers = [maker_of(each) for each in add.inputs]
        products = [each for each in makers if each is not None and each.op == "MatMul"]
        weights = [maker_of(each.inputs[1]) for each in products]
        if any(each is not None and each.op == DEQUANTIZE for each in weights):
            add.op = "Sum"


def drop_idle_expand(graph: gs.Graph) -> None:
    """Expand of a sum or product to the shape of one of its operands, which it has already.

    Torch writes it for `x += y`: what is added lands in the place of x.
    """
    for node in [each for each in graph.nodes if each.op == "Expand"]:
        shape, maker = maker_of(node.inputs[1]), maker_of(_behind_pairs(node.inputs[0]))
        if (
            shape is None
            or maker is None
            or shape.op != "Shape"
            or node.outputs[0] in graph.outputs
        ):
            continue
        operands = [_behind_pairs(each) for each in maker.inputs]
        if maker.op in ("Add", "Mul") and any(
            _behind_pairs(shape.inputs[0]) is each for each in operands
        ):
            bypass(graph, node, node.inputs[0])


def _behind_pairs(tensor: gs.Tensor) -> gs.Tensor:
    """The float tensor that a tensor was before it went through Q and DQ."""
    maker = maker_of(tensor)
    while maker is not None and maker.op in (QUANTIZE, DEQUANTIZE):
        tensor = maker.inputs[0]
        maker = maker_of(tensor)
    return tensor


def hold_clamps(graph: gs.Graph) -> None:
    """A one-input Sum between a quantized Gemm or MatMul and a Relu or Clip that no Q follows.

    onnxruntime takes such a clamp for part of the group, misses the Q behind it and runs the
    product in float; without the clamp it needs no Q (O15, O16).
    """
    for clamp in [each for each in graph.nodes if each.op in ("Relu", "Clip")]:
        maker = maker_of(clamp.inputs[0])
        if maker is None or maker.op not in ("Gemm", "MatMul"):
            continue
        weight_maker, readers = maker_of(maker.inputs[1]), clamp.outputs[0].outputs
        if weight_maker is None or weight_maker.op != DEQUANTIZE:
            continue
        if len(readers) != 1 or readers[0].op != QUANTIZE:
            hold(graph, maker)


Pass = Callable[[gs.Graph], None]
COMMON: tuple[Pass, ...] = (
    drop_idle_expand,
    fold_transposed_weights,
    pick_codes,
    merge_equal_pairs,
    drop_requantization,
)
INTEGER_CPU: tuple[Pass, ...] = (
    drop_idle_expand,
    fold_transposed_weights,
    pick_codes,
    merge_equal_pairs,
    quantize_before_commuting,
    ask_codes_for_shape,
    drop_idle_relu,
    drop_requantization,
    keep_float,
    hold_clamps,
    sum_behind_products,
)
# What runs for a target that wants every op between Q and DQ, and for one that does not.
PASSES: dict[bool, tuple[Pass, ...]] = {True: INTEGER_CPU, False: COMMON}
