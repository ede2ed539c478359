"""What became of one node, and of all of them in onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from qdq.graph.explaining.dyes import source_of
from qdq.graph.explaining.kernels import Kernel, Mapped
from qdq.graph.explaining.obstacles import conversion, obstacle
from qdq.graph.linting.nodes import DQ, WEIGHTED, Node, Q
from qdq.graph.linting.view import View
from qdq.records.explanation import Fate, KernelRow
from qdq.records.findings import Finding

Findings = Mapping[str, list[Finding]]


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a node.

    Attributes:
        fate: in which numbers it computes, if at all.
        kernel: operator of the kernel that does its work; "" where none does.
        rule: what kept it from running on codes; "" where nothing is known.
        why: in words.
    """

    fate: Fate
    kernel: str
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Accounts:
    """What became of all nodes of a file.

    Attributes:
        nodes: one per node, in the order of the file.
        kernels: one per thing executed.
    """

    nodes: list[Account] = field(default_factory=list)
    kernels: list[KernelRow] = field(default_factory=list)


def account_for(
    nodes: list[tuple[View, Node]],
    mapped: Mapped,
    findings: Findings,
    times: Mapping[str, float],
) -> Accounts:
    """Tell from onnxruntime's kernels what became of every node.

    Args:
        nodes: of the file, in order, with the graph that each is in.
        mapped: where they went.
        findings: what lint says about each node, by label.
        times: name of each kernel -> microseconds; empty where they were not measured.
    """
    found = Accounts()
    for index, (view, node) in enumerate(nodes):
        place = mapped.place.get(index)
        if index in mapped.folded:
            why = "constant: computed once, when the session is made"
            found.nodes.append(Account("folded", "", "", why))
        elif place is None:
            found.nodes.append(Account("removed", "", "", "nothing is left to do for it"))
        else:
            kernel = mapped.kernels[place]
            head = nodes[_head(kernel, nodes)]
            found.nodes.append(_account(view, node, kernel, head, findings))
    for kernel in mapped.kernels:
        names = tuple(nodes[each][1].label for each in kernel.sources)
        near = nodes[kernel.near[0]][1].label if kernel.near and not names else ""
        found.kernels.append(KernelRow(kernel.op, kernel.fate, names, near, times.get(kernel.name)))
    return found


def _head(kernel: Kernel, nodes: list[tuple[View, Node]]) -> int:
    """The node that gives a kernel its work: its layer, what it is named after, or the first."""
    ops = {each: nodes[each][1].op for each in kernel.sources}
    layers = [each for each, op in ops.items() if op in WEIGHTED]
    named = [each for each in kernel.sources if each == source_of(kernel.name)]
    real = [each for each, op in ops.items() if op not in (Q, DQ)]
    return (layers or named or real or kernel.sources)[0]


def _account(
    view: View, node: Node, kernel: Kernel, head: tuple[View, Node], findings: Findings
) -> Account:
    fused = "" if node is head[1] else f"fused with {head[1].label}"
    if kernel.fate == "integer":
        return Account("integer", kernel.op, "", fused or f"runs as {kernel.op}")
    if kernel.fate == "convert":
        said = findings.get(node.label, [])
        rule = said[0].rule if said else ""
        return Account("convert", kernel.op, rule, fused or conversion(view, node))
    if kernel.fate == "index":
        return Account("index", kernel.op, "", "computes sizes, indices or truth values")
    said = findings.get(node.label, [])
    blocked = (
        obstacle(view, node, said) if said else obstacle(*head, findings.get(head[1].label, []))
    )
    why = f"{fused}: {blocked.why}" if fused else blocked.why
    return Account("float", kernel.op, blocked.rule, why)
