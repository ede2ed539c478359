"""How the written file compares with what it was made from, and how fast it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qdq.records.base import Record
from qdq.records.simulation import SimulationReport

_WORST = 10  # tensors that are listed


@dataclass(frozen=True)
class ComparisonRow:
    """The file against one reference on the same inputs.

    Attributes:
        reference: its name ("float", "fake_quant").
        metric: the reference's own value of the metric; None where there is none.
        agreement: share of equal top-1 classes, 0..1.
        sqnr_db: signal-to-quantization-noise ratio of the first output, dB.
        largest: largest absolute difference, in the unit of the output.
    """

    reference: str
    metric: float | None
    agreement: float
    sqnr_db: float
    largest: float


@dataclass(frozen=True)
class TensorRow:
    """One quantized tensor of the file and the reference's, both in the codes of the file.

    Attributes:
        name: of the site, or of the tensor in a file that names no sites.
        tensor: its name in the file.
        values: how many were compared.
        differing: how many have other codes.
        largest: largest difference, in codes (LSB).
        mean: mean absolute difference, in codes.
        sqnr_db: signal-to-quantization-noise ratio of what the codes stand for, dB; infinite where
            all are equal.
    """

    name: str
    tensor: str
    values: int
    differing: int
    largest: int
    mean: float
    sqnr_db: float


@dataclass(frozen=True)
class LayerReport(Record):
    """The file against one reference, tensor by tensor.

    Attributes:
        reference: its name.
        missing: names of quantized tensors of the file that the reference does not have, or has in
            another shape.
        rows: one per tensor that both have, in the order of the file.
    """

    reference: str
    missing: tuple[str, ...]
    rows: tuple[TensorRow, ...]

    @property
    def first(self) -> TensorRow | None:
        """The first tensor with a code that differs; None where none does."""
        return next((row for row in self.rows if row.differing), None)

    @property
    def worst_by_lsb(self) -> tuple[TensorRow, ...]:
        """Up to ten tensors that differ, the largest difference in codes first."""
        return self._worst(sorted(self.rows, key=lambda row: (-row.largest, -row.mean)))

    @property
    def worst_by_sqnr(self) -> tuple[TensorRow, ...]:
        """Up to ten tensors that differ, the lowest ratio first."""
        return self._worst(sorted(self.rows, key=lambda row: (row.sqnr_db, -row.largest)))

    def _worst(self, rows: Sequence[TensorRow]) -> tuple[TensorRow, ...]:
        return tuple(row for row in rows if row.differing)[:_WORST]

    def __str__(self) -> str:
        found = f"layers against {self.reference}: {len(self.rows)} tensors compared"
        if self.missing:
            found += f", {len(self.missing)} without a counterpart"
        if self.first is None:
            return f"{found}; all codes are equal"
        lines = [f"{found}; the first that differs is {_told(self.first)}"]
        for measure, rows in (("LSB", self.worst_by_lsb), ("SQNR", self.worst_by_sqnr)):
            lines += [f"  worst by {measure}:", *_listed(rows)]
        return "\n".join(lines)


def _told(row: TensorRow) -> str:
    return f"{row.name}: {row.differing:,} of {row.values:,} codes, up to {row.largest} LSB"


def _listed(rows: Sequence[TensorRow]) -> Iterator[str]:
    width = max(len(row.name) for row in rows)
    for row in rows:
        share = row.differing / row.values
        yield (
            f"    {row.name:<{width}}  {row.largest:>3} LSB  mean {row.mean:.3f}  "
            f"{share:>7.2%} of codes  {row.sqnr_db:>5.1f} dB"
        )


@dataclass(frozen=True)
class ValidationReport(Record):
    """One ONNX file, run in onnxruntime.

    Attributes:
        path: the file.
        target: the runtime it was made for; "" where the file does not say.
        samples: how many rows of the first output were compared.
        metric_name: what `metric` is; "" where there is none.
        metric: of the file.
        bytes: size of the file.
        ops: op type -> count in the graph that onnxruntime executes.
        integer_layers: layers with weights that run in integers there.
        layers: all layers with weights.
        note: what to know about running this file here.
        rows: one per reference.
        tensors: where it was asked for, the file against each reference tensor by tensor.
        exact: where it was asked for, the file as simulated and as run.
    """

    path: str
    target: str
    samples: int
    metric_name: str
    metric: float | None
    bytes: int
    ops: dict[str, int]
    integer_layers: int
    layers: int
    note: str
    rows: tuple[ComparisonRow, ...]
    tensors: tuple[LayerReport, ...] = ()
    exact: SimulationReport | None = None

    def __str__(self) -> str:
        own = "" if self.metric is None else f", {self.metric_name} {self.metric:.2%}"
        lines = [
            f"{self.path}: {self.samples} samples{own}, "
            f"{self.integer_layers} of {self.layers} layers in integers"
        ]
        lines += [
            f"  against {row.reference}: {row.agreement:.2%} equal top-1, {row.sqnr_db:.1f} dB"
            for row in self.rows
        ]
        lines += [f"  note: {self.note}"] if self.note else []
        lines += [str(each) for each in self.tensors]
        return "\n".join(lines + ([] if self.exact is None else [str(self.exact)]))


@dataclass(frozen=True)
class LatencyRow:
    """One file.

    Attributes:
        name: how the caller called it.
        median_ms: median time of one run, milliseconds.
        low_ms: first quartile.
        high_ms: third quartile.
        ratio: median of this file's time over the first file's, run by run.
    """

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float


@dataclass(frozen=True)
class LatencyReport(Record):
    """Several files, run in turn on the same input.

    Attributes:
        threads: threads of each session.
        batch: rows of the input.
        runs: counted runs of each file.
        rows: one per file.
    """

    threads: int
    batch: int
    runs: int
    rows: tuple[LatencyRow, ...]

    def __str__(self) -> str:
        return "\n".join(
            f"{row.name}: {row.median_ms:.3f} ms ({row.low_ms:.3f}..{row.high_ms:.3f}), "
            f"{row.ratio:.2f}x"
            for row in self.rows
        )
