"""How the written file compares with what it was made from, and how fast it is."""

from dataclasses import dataclass

from qdq.records.base import Record


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
        return "\n".join(lines + ([f"  note: {self.note}"] if self.note else []))


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
