"""What a runtime makes of every node of a file."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdq.records.base import Record

# Computes on codes; on floats; changes one into the other; on sizes, indices or truth values; once,
# before the first run; not at all.
Fate: TypeAlias = Literal["integer", "float", "convert", "index", "folded", "removed"]


@dataclass(frozen=True)
class NodeRow:
    """One node of the file.

    Attributes:
        name: its name, or its operator and first output where it has none.
        op: its operator.
        fate: what became of it.
        kernel: operator of the kernel that does its work; "" where none does.
        rule: what kept it from running on codes, an id such as O02; "" where no rule is known.
        why: the same in words.
        macs: multiply-accumulates of one run; None where it has none or sizes are not known.
    """

    name: str
    op: str
    fate: Fate
    kernel: str
    rule: str
    why: str
    macs: int | None


@dataclass(frozen=True)
class KernelRow:
    """One thing the runtime executes.

    Attributes:
        op: its operator; of a predicted region the operators in it.
        fate: in which numbers it computes.
        nodes: names of the nodes of the file whose work it does; empty: the runtime added it.
        near: for an added one, the node it was added for; else "".
        microseconds: median time in one run; None where it was not measured.
    """

    op: str
    fate: Fate
    nodes: tuple[str, ...]
    near: str
    microseconds: float | None


@dataclass(frozen=True)
class ExplanationReport(Record):
    """One file on one runtime.

    Attributes:
        path: where it is.
        target: "onnxruntime" or "tensorrt".
        source: where this is known from: a version of onnxruntime, or rules.
        opset: of the default domain.
        integer_nodes: how many nodes compute on codes.
        float_nodes: how many compute on floats.
        integer_macs: multiply-accumulates on codes.
        macs: all that are known.
        rows: one per node of the file, in its order.
        kernels: one per thing executed, in the runtime's order.
    """

    path: str
    target: str
    source: str
    opset: int
    integer_nodes: int
    float_nodes: int
    integer_macs: int
    macs: int
    rows: tuple[NodeRow, ...]
    kernels: tuple[KernelRow, ...]

    def __str__(self) -> str:
        computing = self.integer_nodes + self.float_nodes
        text = (
            f"{self.path} on {self.target}, by {self.source}: {len(self.rows)} nodes become "
            f"{len(self.kernels)} kernels; {self.integer_nodes} of {computing} nodes that compute "
            f"run in integers"
        )
        if self.macs:
            text += f", and {self.integer_macs / self.macs:.1%} of {self.macs:,} MACs"
        times = [each.microseconds for each in self.kernels if each.microseconds is not None]
        return f"{text}; {sum(times):,.0f} us a run" if times else text
