"""Which nodes of a float graph may compute in integers, and why the others do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.quantizing.products import Product
from qdq.records.decisions import Decision
from qdq.sites import Matcher, Patterns
from qdq.targets.opgraph import CLAMPS, PARTING, TRANSPARENT, Op, OpGraph
from qdq.targets.regions import PAIRS, why_no_site
from qdq.targets.spans import between

_LAYER = ("input", "weight", "output")
# What is no site on any target, although somebody might look for it.
_NEVER = {
    "mean": "no runtime has an integer kernel of a mean that is not over an image (O13)",
    "if": "its branches are left as they are",
    "loop": "its body is left as it is",
    "scan": "its body is left as it is",
}


@dataclass(frozen=True)
class Selection:
    """What may compute in integers.

    Attributes:
        sites: per node that may, its roles: {"conv1": ("input", "weight", "output"), ...}.
        left: the others that compute, each with the reason.
    """

    sites: Mapping[str, tuple[str, ...]]
    left: tuple[Decision, ...]


def select(
    graph: gs.Graph, ops: OpGraph, products: Mapping[str, Product], ignore: Patterns
) -> Selection:
    """Ask every node of the graph.

    Args:
        graph: clean, with types and shapes where they are known.
        ops: the same in the neutral form.
        products: its layers with weights.
        ignore: what the user wants left float: globs, 're:...' and from-tos of names of nodes;
            globs and 're:...' of operators too.

    Raises:
        PolicyError: a pattern that cannot be read, or that fits nothing.
    """
    matcher = Matcher(ignore, what="ignore", between=partial(between, ops))
    nodes = {node.name: node for node in graph.nodes}
    sites: dict[str, tuple[str, ...]] = {}
    left = []
    for op in (each for each in ops.ops if not ops.varying.isdisjoint(each.outputs)):
        node = nodes[op.name]
        ignored = matcher.find(op.name, {}) or matcher.find(node.op, {})
        roles = _roles(op)
        why = f"ignored by {ignored}" if ignored else _why_not(op, node, ops, products)
        if why:
            left.append(Decision(op.name, "skip", why))
        elif roles:
            sites[op.name] = roles
    matcher.refuse_idle(each for node in graph.nodes for each in (node.name, node.op))
    return Selection(sites, tuple(left))


def moves(op: Op) -> bool:
    """Whether an op gives the values it reads and computes none, nor whole numbers."""
    return op.kind in TRANSPARENT | PARTING | CLAMPS.keys() | {"gather", "expand", "pad"}


def _roles(op: Op) -> tuple[str, ...]:
    if op.weight:
        return _LAYER
    if op.kind == "embedding":
        return ("weight",)
    if op.kind in ("avg_pool", "resize"):
        return ("input",)
    if op.kind in (*PAIRS, "concat"):
        return (*(f"input_{index}" for index in range(len(op.inputs))), "output")
    return ()


def _why_not(op: Op, node: gs.Node, ops: OpGraph, products: Mapping[str, Product]) -> str:
    """Why a node must stay float; empty if nothing speaks against it, or it moves values."""
    refused = _why_no_kernel(op, node)
    if refused or not _roles(op) or op.weight or op.kind == "embedding":
        return refused
    around = why_no_site(op, ops)
    if around:
        return around
    kinds = {each.dtype for each in (*node.inputs[: len(op.inputs)], node.outputs[0])}
    if kinds != {np.dtype(np.float32)}:
        named = ", ".join(sorted(str(each) for each in kinds if each != np.float32))
        return f"it computes with {named.replace('None', 'values of an unknown type')}"
    return ""


def _why_no_kernel(op: Op, node: gs.Node) -> str:
    if node.domain:
        return f"an operator of {node.domain!r}, which nobody here knows"
    if op.kind in _NEVER:
        return _NEVER[op.kind]
    if op.kind.startswith("other_"):
        factor = next((each for each in node.inputs[1:2] if isinstance(each, gs.Constant)), None)
        if factor is not None and factor.values.dtype != np.float32:
            return f"its weight is {factor.values.dtype}"
        return "its weight or bias is computed, or has another form than a layer's"
    if not _roles(op) and not moves(op) and not op.kind.startswith("integer_"):
        return f"there is no integer kernel of {node.op}"
    return ""
