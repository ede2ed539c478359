"""What quantizing a float ONNX file decided, chose, wrote, and how close it came."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qdq.records.base import Record
from qdq.records.calibration import RangeRow

Numbers: TypeAlias = Literal["integer", "float"]


@dataclass(frozen=True)
class QuantizedRow:
    """One node of the float file that computes.

    Attributes:
        name: its name, or its operator and what it makes where it has none.
        op: its operator.
        numbers: what it computes with in the new file: "integer", between Q/DQ pairs, or "float".
        why: one clause, with the rule's id where there is one.
    """

    name: str
    op: str
    numbers: Numbers
    why: str


@dataclass(frozen=True)
class OutputRow:
    """One output of the new file against the same of the float file, on the same data.

    Attributes:
        name: of the output.
        sqnr_db: signal-to-quantization-noise ratio, dB; inf where they are equal.
        largest: largest absolute difference, in the unit of the output.
        agreement: share of equal largest entries along axis 1, 0..1; None where there is no such
            axis.
    """

    name: str
    sqnr_db: float
    largest: float
    agreement: float | None


@dataclass(frozen=True)
class QuantizationReport(Record):
    """A float ONNX file and the one with Q and DQ that was made of it.

    Attributes:
        source: path of the float file.
        path: path of the new one.
        target: the runtime it is made for.
        opset: of the default domain.
        method: how ranges were chosen.
        batches: how many the ranges were chosen from.
        rows: one per node that computes.
        ranges: one per activation that is quantized.
        notes: what else was done to the file.
        outputs: how close each output is to the float file's, in onnxruntime.
        checked: how many batches that was seen on; the first ones of the data.
        integer_macs: multiply-accumulates on codes.
        macs: all that are known; for TensorRT both are predicted by its rules.
        source_bytes: size of the float file, its external data too.
        bytes: size of the new one.
        sha256: of the new one.
        passes: name of each speed pass that ran -> how many places it rewrote.
    """

    source: str
    path: str
    target: str
    opset: int
    method: str
    batches: int
    rows: tuple[QuantizedRow, ...]
    ranges: tuple[RangeRow, ...]
    notes: tuple[str, ...]
    outputs: tuple[OutputRow, ...]
    checked: int
    integer_macs: int
    macs: int
    source_bytes: int
    bytes: int
    sha256: str
    passes: dict[str, int]

    @property
    def counts(self) -> dict[Numbers, int]:
        """How many nodes compute with which numbers."""
        found = Counter(row.numbers for row in self.rows)
        kinds: tuple[Numbers, ...] = ("integer", "float")
        return {kind: found[kind] for kind in kinds}

    def to_dict(self) -> dict[str, Any]:
        """As every record, with the counts."""
        return {**super().to_dict(), "counts": self.counts}

    def __str__(self) -> str:
        work = f", {self.integer_macs / self.macs:.1%} of {self.macs:,} MACs" if self.macs else ""
        lines = [
            f"{self.path} for {self.target}, opset {self.opset}: {self.counts['integer']} of "
            f"{len(self.rows)} nodes that compute are between Q/DQ pairs{work}; "
            f"{self.bytes / self.source_bytes:.3f} of the float file's size"
        ]
        for row in self.outputs:
            same = "" if row.agreement is None else f", {row.agreement:.2%} equal top-1"
            lines.append(
                f"  {row.name}: {row.sqnr_db:.1f} dB against float on {self.checked} batches{same}"
            )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])
