"""onnxruntime's rules on all other pairs: O04, O09-O14, O17, O19, O21-O23, O27."""

from collections.abc import Iterator

from onnx import TensorProto

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.grids import codes_kind, ends, same_grid, scale_of, zero_point_of
from qdq.graph.linting.nodes import ACTIVATIONS, DQ, Node, Q
from qdq.graph.linting.onnxruntime_operators import (
    INTEGER,
    JOINS,
    MOVES,
    ONE_INPUT,
    decoder,
    ends_an_integer_operator,
    is_nearest,
    moves_codes,
    quantizers,
    readers_left,
    readers_of_int8,
)
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target

_REMOVE = "remove the pair, or quantize its neighbour too"


@checks("O09", "O10", "O04", "O17")
def sums_and_products_are_whole(view: View, target: Target) -> Iterator[Finding]:
    """Add and Mul with one float input, or without Q behind."""
    for node in view.of(*JOINS):
        held = [_is_held(view, name) for name in node.inputs]
        if not any(held) or _is_an_activation(view, node) or _adds_a_bias(view, node):
            continue
        if not all(held):
            missing = node.inputs[held.index(False)]
            origin = view.source(missing, {"Identity"})
            residual = node.op == "Add" and view.layer(origin) is not None
            why = f"{missing} is float, the other input int8"
            fix = "put a pair on it too" + (", behind the layer" if residual else "")
            yield found("O10" if residual else "O09", node, why, fix, tensor=missing)
        yield from _gives_codes(view, node, "O09")


@checks("O11", "O17")
def concats_are_whole(view: View, target: Target) -> Iterator[Finding]:
    """Concats with a float input, or without Q behind."""
    for node in view.of("Concat"):
        held = [decoder(view, name) is not None for name in node.inputs]
        if any(held) and not all(held):
            missing = node.inputs[held.index(False)]
            why = f"{missing} is float, other inputs are int8"
            yield found("O11", node, why, "put a pair on it too", tensor=missing)
        if any(held):
            yield from _gives_codes(view, node, "O11")


@checks("O13", "O17")
def operators_of_one_input_are_whole(view: View, target: Target) -> Iterator[Finding]:
    """Pools, Sigmoid, LeakyRelu and Softmax without Q behind."""
    for node in view.of(*ONE_INPUT):
        pair = decoder(view, node.input(0)) if node.inputs else None
        if pair is None:
            continue
        readers = readers_left(view, node.result)
        carried = ends_an_integer_operator(view, pair) and not quantizers(readers)
        if not carried:  # else it only reads, as float, what an integer operator gave
            yield from _gives_codes(view, node, "O13")


@checks("O12", "O22")
def moved_codes_keep_their_grid(view: View, target: Target) -> Iterator[Finding]:
    """What moves values between pairs of different grids."""
    for node in view.nodes:
        ahead = view.dq(node.input(0)) if node.inputs and moves_codes(node) else None
        if ahead is None:
            continue
        behind = quantizers([use for name in node.outputs for use in view.readers(name)])
        if not all(same_grid(view, ahead, each) for each in behind):
            rule = "O22" if node.op == "Split" else "O12"
            why = "the pairs on its two sides have different grids"
            yield found(rule, node, why, "give both one range", tensor=node.input(0))


@checks("O14", "O21")
def pairs_touch_integers(view: View, target: Target) -> Iterator[Finding]:
    """Pairs that neither begin nor end an operator with an integer kernel, nor move codes."""
    useful = INTEGER | {"Resize", "ConvTranspose", Q}  # O14 speaks of the two by themselves
    for pair in view.pairs():
        if ends_an_integer_operator(view, pair) or _ends_a_mover(view, pair):
            continue
        uses = view.uses(pair.result, MOVES)
        if any(use.op in useful for use in uses) or not uses:
            continue
        ops = sorted({use.op for use in uses})
        said = ", ".join(op or "an output of the graph" for op in ops)
        rule = "O21" if ops == [""] else "O14"
        yield found(rule, pair, f"a pair between float operators: {said}", _REMOVE)


@checks("O14")
def float_operators_have_no_pair_of_their_own(view: View, target: Target) -> Iterator[Finding]:
    """Linear Resize, ReduceMean and ConvTranspose between pairs."""
    for node in view.of("Resize", "ReduceMean", "ConvTranspose"):
        held = [each for name in node.inputs if (each := view.dq(name)) is not None]
        own = [each for each in held if not ends_an_integer_operator(view, each)]
        if own and not is_nearest(node):
            why = "it has no integer kernel and runs float between its pairs"
            yield found("O14", node, why, "leave it float", tensor=own[0].result)


@checks("O19")
def pairs_stand_once(view: View, target: Target) -> Iterator[Finding]:
    """A Q right behind a DQ of the same grid."""
    for node in view.of(Q):
        ahead = None if view.is_constant(node.input(0)) else view.dq(node.input(0))
        if ahead is not None and same_grid(view, ahead, node):
            fix = "remove the second pair; --fix does"
            yield found("O19", node, f"it gives the codes that {ahead.label} reads", fix)


@checks("O23")
def grids_are_complete(view: View, target: Target) -> Iterator[Finding]:
    """Scales that are computed or many, and zero points that are left out."""
    for node in view.of(Q, DQ):
        if codes_kind(view, node) == TensorProto.INT32:
            continue  # a bias, whose zero point is 0 in any case
        for name in filter(view.is_overridden, node.inputs[1:3]):
            why = f"{name} is an input of the graph too, and so no constant"
            yield found("O23", node, why, "take it out of the graph's inputs", tensor=name)
        scale = scale_of(view, node)
        if not node.input(2):
            fix = "write a zero point of 0; --fix does"
            yield found("O23", node, "it has no zero point", fix)
        elif zero_point_of(view, node) is None and not view.is_constant(node.input(2)):
            yield found("O23", node, "its zero point is computed", "calibrate it to a constant")
        if scale is None and not view.is_constant(node.input(1)):
            yield found("O23", node, "its scale is computed", "calibrate it to a constant")
        elif scale is not None and scale.size > 1 and not view.is_constant(node.input(0)):
            why = f"{scale.size} scales for an activation"
            yield found("O23", node, why, "calibrate it per tensor")


@checks("O27")
def int8_codes_have_one_reader(view: View, target: Target) -> Iterator[Finding]:
    """Int8 codes with several readers next to an operator with an integer kernel."""
    for node in view.of(Q):
        count = 0 if target.signed_kernels else readers_of_int8(view, node)
        if count < 2 or view.is_constant(node.input(0)):
            continue
        around = {use.op for use in view.uses(node.result, {DQ, *MOVES})}
        maker = view.maker(view.source(node.input(0), {"Relu", "Clip", *MOVES}))
        if around & INTEGER or (maker is not None and maker.op in INTEGER):
            why = f"its int8 codes have {count} readers and cannot become uint8"
            yield found("O27", node, why, "write uint8 codes, 128 more each; --fix does")


def _gives_codes(view: View, node: Node, rule: str) -> Iterator[Finding]:
    """One Q behind a node, of the type of the codes in front; of a sum a ReLU may stand between."""
    readers = readers_left(view, node.result)
    relu = readers[0].node if len(readers) == 1 and readers[0].op == "Relu" else None
    if relu is not None and rule == "O09":
        behind = readers_left(view, relu.result)
        if len(behind) == 1 and quantizers(behind):
            span = ends(view, quantizers(behind)[0])
            if span is not None and span[0] < 0:
                why = f"codes behind its Relu reach down to {span[0]:g}"
                fix = "let the zero point be the lowest code; --fix does where no value is clipped"
                yield found("O04", node, why, fix, tensor=relu.result)
            return
    behind_it = quantizers(readers)
    if len(readers) > 1 and behind_it:
        why = f"its output is read {len(readers)} times"
        yield found("O17", node, why, "let all read one pair; --fix merges equal ones")
    elif not behind_it:
        yield found(rule, node, "no Q behind it", "put a pair behind it, or none in front")
    else:
        ahead = {codes_kind(view, each) for name in node.inputs if (each := decoder(view, name))}
        if ahead != {codes_kind(view, behind_it[0])}:
            why = "codes of different types around it"
            yield found(rule, node, why, "quantize all to one type")


def _is_held(view: View, name: str) -> bool:
    """Whether a DQ makes it, and not of rows picked from a table, which are int8 to be small."""
    pair = decoder(view, name) if name else None
    return pair is not None and view.op(pair.input(0)) != "Gather"


def _adds_a_bias(view: View, node: Node) -> bool:
    """Whether an addition is the int32 bias of a MatMul, which is folded to float."""
    held = [pair for name in node.inputs if (pair := decoder(view, name)) is not None]
    return all(codes_kind(view, pair) == TensorProto.INT32 for pair in held)


def _is_an_activation(view: View, node: Node) -> bool:
    """Whether a product is x * f(x) in float, where x is what an integer operator gave."""
    held = [name for name in node.inputs if view.dq(name) is not None]
    floats = [name for name in node.inputs if name not in held]
    pair = view.dq(held[0]) if len(held) == 1 and len(floats) == 1 else None
    if node.op != "Mul" or pair is None:
        return False
    same = view.bare(view.source(floats[0], ACTIVATIONS)) == view.bare(held[0])
    return same and ends_an_integer_operator(view, pair)


def _ends_a_mover(view: View, pair: Node) -> bool:
    """Whether a pair stands behind an operator that codes are moved through (O12)."""
    mover = view.maker(view.bare(pair.result))
    if mover is None or not (mover.op in MOVES or mover.op == "Resize"):
        return False
    return bool(mover.inputs) and view.dq(mover.input(0)) is not None
