"""What files took side by side, and what a machine's kernels take."""

from dataclasses import dataclass

from qdq.records.base import Record


@dataclass(frozen=True)
class BenchRow:
    """One file in one setting.

    Attributes:
        name: how the file is called.
        provider: onnxruntime's execution provider.
        threads: of one operator.
        batch: rows of the input.
        clock: whose time it is: "cpu", of this process, or "wall".
        calls: of the file in one turn.
        median_ms: of one run, milliseconds.
        low_ms: first quartile.
        high_ms: third quartile.
        ratio: median of this file's time over the first file's, round by round.
        ratio_low: first quartile of that.
        ratio_high: third quartile.
    """

    name: str
    provider: str
    threads: int
    batch: int
    clock: str
    calls: int
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class BenchReport(Record):
    """Several files, run in turn on the same random inputs.

    Attributes:
        machine: its processor.
        runtime: "onnxruntime" and its version.
        rounds: counted turns of each file in each setting.
        rows: one per file and setting; files of one setting stand together.
    """

    machine: str
    runtime: str
    rounds: int
    rows: tuple[BenchRow, ...]

    def __str__(self) -> str:
        first = f"{self.runtime} on {self.machine}, {self.rounds} rounds"
        lines = [
            f"  {row.name}: {row.median_ms:.3f} ms, {row.ratio:.3f}x "
            f"[{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
            for row in self.rows
        ]
        return "\n".join([first, *lines])
