"""What two ONNX files differ in."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdq.records.base import Record

Change: TypeAlias = Literal["added", "removed", "changed", "moved"]
Subject: TypeAlias = Literal["opset", "input", "output", "node", "pair", "initializer", "metadata"]


@dataclass(frozen=True)
class DifferenceRow:
    """One difference.

    Attributes:
        subject: what differs.
        change: how: "added" is in the second file only; a pair that "moved" is in both, and
            quantizes another tensor in the second.
        name: of the node, initializer, input, output, domain or entry.
        op: operator of a node; of an initializer that of its first reader; else "".
        what: the difference in words.
        largest: of two initializers of one shape, the largest absolute difference; infinite where
            one is not finite and the other is another value; else None.
        steps: the same in steps of the grid the initializer belongs to: of codes, and of weights
            that a Q reads; of a scale, how far the last code of 8 bits moves. None for others.
    """

    subject: Subject
    change: Change
    name: str
    op: str
    what: str
    largest: float | None = None
    steps: float | None = None


@dataclass(frozen=True)
class DifferenceReport(Record):
    """Two ONNX files compared.

    Attributes:
        first: path of the one.
        second: path of the other.
        nodes: how many nodes are the same in both.
        initializers: how many initializers are the same in both, value for value.
        rows: the differences: opset, inputs, outputs, nodes, pairs, initializers, metadata.
    """

    first: str
    second: str
    nodes: int
    initializers: int
    rows: tuple[DifferenceRow, ...]

    def __str__(self) -> str:
        same = f"{self.nodes} nodes and {self.initializers} initializers are the same"
        if not self.rows:
            return f"{self.first} and {self.second} are the same: {same}"
        counts = Counter((row.subject, row.change) for row in self.rows)
        listed = ", ".join(
            f"{count} {subject}{'s' if count > 1 and subject not in _MANY else ''} {change}"
            for (subject, change), count in counts.items()
        )
        return f"{self.first} -> {self.second}: {listed}; {same}"


_MANY = ("metadata",)
