"""TensorRT's rules on pairs around layers with weights: T08-T12, T24, T29, T30."""

from collections.abc import Iterator

from qdq.graph.linting.checks import checks, found
from qdq.graph.linting.nodes import ACTIVATIONS, DQ, MOVERS, WEIGHTED, Q
from qdq.graph.linting.regions import Regions, residual_sides
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.targets import Target


@checks("T08")
def all_factors_or_none(view: View, target: Target) -> Iterator[Finding]:
    """Products of an int8 and a float factor."""
    for node in view.of(*WEIGHTED):
        held = [view.dq(name, MOVERS) is not None for name in node.inputs[:2]]
        if len(held) == 2 and any(held) and not all(held):
            missing = node.inputs[held.index(False)]
            what = "weight" if view.is_constant(missing) else "input"
            why = f"{missing} is float, the other factor int8"
            fix = f"quantize this {what} too, or leave the layer float as a whole"
            yield found("T08", node, why, fix, tensor=missing)


@checks("T09")
def activations_follow_their_layer(view: View, target: Target) -> Iterator[Finding]:
    """Pairs between a layer and its activation, and pairs behind a layer that nobody needs."""
    gates = {sigmoid.result for sigmoid, _, _ in Regions.of(view).silus}
    for pair in view.pairs():
        bare = view.bare(pair.result)
        layer = view.layer(bare)
        if layer is None or view.op(bare) == "BatchNormalization":
            continue  # T10 speaks of those
        for use in view.uses(pair.result, MOVERS):
            if use.node is None or use.op not in ACTIVATIONS or use.node.result in gates:
                continue
            why = f"a pair between {layer.label} and {use.op}"
            yield found("T09", use.node, why, f"put it behind {use.op}", tensor=pair.result)


@checks("T10", "T29")
def batch_norms_stay_whole(view: View, target: Target) -> Iterator[Finding]:
    """Pairs on either side of a BatchNormalization that is fused with a layer."""
    for node in view.of("BatchNormalization"):
        layer = view.layer(view.bare(node.input(0)))
        if layer is not None and view.dq(node.input(0)) is not None:
            why = f"a pair between {layer.label} and it"
            yield found("T10", node, why, "remove the pair, or fold the norm", tensor=node.input(0))
        for use in view.uses(node.result, {Q, DQ}):
            if use.node is None or use.index < 0 or view.dq(use.node.inputs[use.index]) is None:
                continue
            if use.op in ACTIVATIONS:
                why = f"a pair between it and {use.op}"
                yield found("T10", node, why, f"put it behind {use.op}")
            if use.op in WEIGHTED and view.layer(node.result) is None:
                why = f"a pair keeps it from being folded into {use.node.label}"
                yield found("T29", node, why, "fold it before quantizing, or let it follow a Conv")


@checks("T11", "T12")
def residual_additions(view: View, target: Target) -> Iterator[Finding]:
    """Additions that a layer could be fused with, but for a pair too many or too few."""
    for node in view.of("Add"):
        sides = residual_sides(view, node)
        if sides is None:
            continue
        skip, ending = sides
        layer = view.layer(view.bare(ending))
        if layer is None or layer.op not in ("Conv", "ConvTranspose"):
            continue
        if view.dq(ending) is not None:
            why = f"a pair between {layer.label} and it splits their fusion"
            yield found("T12", node, why, "remove that pair", tensor=ending)
        if view.quantized(layer) and view.dq(skip, MOVERS) is None:
            why = f"its skip input {skip} is float"
            yield found("T11", node, why, "quantize the skip input", tensor=skip)


@checks("T24")
def silus_stay_whole(view: View, target: Target) -> Iterator[Finding]:
    """Pairs inside x * sigmoid(x)."""
    for sigmoid, product, x in Regions.of(view).silus:
        inside = [each for each in (*sigmoid.inputs, *product.inputs) if view.dq(each) is not None]
        if inside and view.layer(x) is not None:
            why = f"a pair inside x * sigmoid(x): {inside[0]}"
            yield found("T24", product, why, "put one pair behind the Mul", tensor=inside[0])


@checks("T30")
def padding_stays_with_its_conv(view: View, target: Target) -> Iterator[Finding]:
    """Pairs between Pad and Conv."""
    for pair in view.pairs():
        readers = [use for use in view.readers(pair.result) if use.op == "Conv"]
        if readers and view.op(view.bare(pair.result)) == "Pad":
            yield found("T30", pair, "a pair between Pad and Conv", "put it in front of the Pad")
