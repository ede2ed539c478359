"""How onnxruntime's optimized graph compares with its simulation."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdq.records.base import Record

By: TypeAlias = Literal["numpy", "onnxruntime"]


@dataclass(frozen=True)
class SimulatedRow:
    """One node of the optimized graph.

    Attributes:
        name: of the node, or its operator and first output where it has none.
        op: its operator.
        by: what computed it in the simulation.
        kind: what it makes: "codes", 8- and 16-bit integers, or "values", everything else.
        values: how many it made.
        differing: how many of them differ from onnxruntime's.
        own: how many differ where the node is given what onnxruntime gave it.
        largest: largest difference, in codes or in the unit of the values; infinite where one of
            the two is not finite.
        why: what the differences come from; "" where there is none.
    """

    name: str
    op: str
    by: By
    kind: Literal["codes", "values"]
    values: int
    differing: int
    own: int
    largest: float
    why: str


@dataclass(frozen=True)
class SimulationReport(Record):
    """A file as onnxruntime's CPU provider runs it, with all optimizations, predicted.

    Attributes:
        path: the file.
        runtime: version of onnxruntime.
        samples: rows of the first output.
        agreement: share of equal top-1 classes of the first output, predicted and run, 0..1; None
            where it has no axis of classes.
        outputs: values of all outputs of the file.
        outputs_differing: how many of them are not as predicted, bit for bit.
        codes: codes that all nodes made.
        codes_differing: how many of them are not as predicted.
        rows: one per node of the optimized graph, in its order.
    """

    path: str
    runtime: str
    samples: int
    agreement: float | None
    outputs: int
    outputs_differing: int
    codes: int
    codes_differing: int
    rows: tuple[SimulatedRow, ...]

    @property
    def is_exact(self) -> bool:
        """Whether every value of every output is as predicted, bit for bit."""
        return self.outputs_differing == 0

    def __str__(self) -> str:
        simulated = sum(row.by == "numpy" for row in self.rows)
        lines = [
            f"exact: {simulated} of {len(self.rows)} nodes of onnxruntime {self.runtime}'s "
            f"optimized graph simulated in numpy; {_share(self.codes_differing, self.codes)} codes "
            f"and {_share(self.outputs_differing, self.outputs)} output values differ"
        ]
        if self.agreement is not None:
            lines[0] += f"; {self.agreement:.2%} equal top-1"
        lines += [
            f"  {row.name} ({row.op}): {_share(row.differing, row.values)} {row.kind}, up to "
            f"{row.largest:.3g}: {row.why}"
            for row in self.rows
            if row.own
        ]
        return "\n".join(lines)


def _share(some: int, of: int) -> str:
    return f"{some:,} of {of:,}" if some else f"none of {of:,}"
