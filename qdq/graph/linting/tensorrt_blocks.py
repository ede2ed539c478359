"""TensorRT's rules on what stays float as a whole: T18-T20, T23, T25, T32, T34."""

from collections.abc import Iterator

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.nodes import MOVERS, Node, Q
from qdq.graph.linting.regions import Regions
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target

_ENOUGH = 16  # channels, or rows and columns of a matrix (T18, T19)
_POINTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")
_REMOVE = "remove the pair in front of it"


@checks("T18", "T19")
def products_are_large_enough(view: View, target: Target) -> Iterator[Finding]:
    """Small products in int8, where the target is to leave them float (`skip_small`)."""
    if not target.skip_small:
        return
    for node in view.of("Gemm", "MatMul", "Conv"):
        why = _why_small(view, node) if view.quantized(node) else ""
        if why:
            rule = "T19" if node.op == "Conv" else "T18"
            yield found(rule, node, why, "leave it float: remove the pairs of its factors")


@checks("T19")
def weights_do_not_vary(view: View, target: Target) -> Iterator[Finding]:
    """An int8 Conv whose weight is computed at run time."""
    for node in view.of("Conv"):
        weight = node.input(1)
        if weight and not view.is_constant(weight) and view.quantized(node):
            fix = "leave it float: remove the pairs of its factors"
            yield found("T19", node, f"its weight {weight} is no constant", fix, tensor=weight)


@checks("T20")
def blocks_stay_float(view: View, target: Target) -> Iterator[Finding]:
    """Pairs in layer norms, in GELUs, and where a mask is added."""
    for block in Regions.of(view).floats:
        entry = block.entry if block.what == "a layer norm" else ""
        behind = view.layer(view.bare(entry)) if entry else None
        allowed = entry if behind is not None and behind.op == "Conv" else None  # T25
        for node in block.nodes:
            inside = [name for name in view.quantized(node) if name != allowed]
            if inside:
                why = f"a pair in {block.what}: {inside[0]}"
                yield found("T20", node, why, _REMOVE, tensor=inside[0])
        if block.what == "masked attention" and _is_quantized(view, block.nodes[0]):
            why = "a pair between the mask and Softmax"
            yield found("T20", block.nodes[0], why, "remove it")


@checks("T23")
def pointwise_with_a_constant_stays_float(view: View, target: Target) -> Iterator[Finding]:
    """Int8 operators that add or multiply by a constant."""
    made = Regions.of(view).made
    for node in view.of(*_POINTWISE):
        held = [name for name in view.quantized(node) if not view.is_constant(name)]
        constant = [name for name in node.inputs if name and view.is_constant(name)]
        if constant and view.quantized(node) and node.result not in made:
            tensor = (held or view.quantized(node))[0]
            why = f"{node.op} with the constant {constant[0]} reads int8"
            yield found("T23", node, why, _REMOVE, tensor=tensor)


@checks("T25")
def norms_behind_convolutions_read_int8(view: View, target: Target) -> Iterator[Finding]:
    """A LayerNormalization that reads an int8 Conv as float."""
    for node in view.of("LayerNormalization"):
        layer = view.layer(node.input(0))
        if layer is not None and layer.op == "Conv" and view.quantized(layer):
            why = f"it reads {layer.label} as float"
            yield found("T25", node, why, "put a pair between them", tensor=node.input(0))


@checks("T32")
def plugins_hold_their_pairs(view: View, target: Target) -> Iterator[Finding]:
    """Operators of foreign domains with pairs around them."""
    for node in view.nodes:
        if node.proto.domain in ("", "ai.onnx", "com.microsoft"):
            continue
        pairs = [name for name in node.inputs if name and view.dq(name) is not None]
        if pairs:
            fix = "let the plugin read codes, and remove the pair"
            yield found("T32", node, "a plugin reads a pair", fix, tensor=pairs[0])


@checks("T34")
def group_norms_stay_float(view: View, target: Target) -> Iterator[Finding]:
    """Pairs in front of GroupNormalization."""
    for node in view.of("GroupNormalization"):
        if view.dq(node.input(0)) is not None:
            yield found("T34", node, "a pair in front of it", _REMOVE, tensor=node.input(0))


def _is_quantized(view: View, node: Node) -> bool:
    return any(use.op == Q for use in view.readers(node.result))


def _why_small(view: View, node: Node) -> str:
    """Why int8 gains nothing here; sizes that the file leaves open count as large."""
    left, right = view.shape(node.input(0)), view.shape(node.input(1))
    if node.op == "Conv":
        return _why_small_conv(view, node, right)
    if not left or not right or len(left) < 2 or len(right) < 2:
        return ""
    turned = node.op == "Gemm" and node.attribute("transB", 0)
    K, N = (right[-1], right[-2]) if turned else (right[-2], right[-1])
    if 1 in (left[-2], N) or any(each is not None and each < _ENOUGH for each in (K, N)):
        return f"a product of {left[-2] or '?'} x {K or '?'} and {K or '?'} x {N or '?'} is small"
    return ""


def _why_small_conv(view: View, node: Node, weight: tuple[int | None, ...] | None) -> str:
    if not weight or None in weight:
        return ""
    outputs, per_group, *kernel = (each or 0 for each in weight)
    groups = node.attribute("group", 1)
    inputs = per_group * groups
    if min(outputs, inputs) >= _ENOUGH:
        return ""
    if groups > 1:
        pays = outputs % 8 == 0 and min(kernel, default=0) >= 3
    else:
        first = view.maker(view.source(view.bare(view.source(node.input(0), MOVERS)), MOVERS))
        enough = first is None or max(outputs, inputs) >= _ENOUGH
        pays = enough and len(set(kernel)) == 1 and 0 in (outputs % 8, inputs % 8)
    return "" if pays else f"{inputs} to {outputs} channels are few"
