"""The short table at the end of a run, for a terminal of 80 columns."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from qdq.records.run import RunReport
from qdq.records.validation import LatencyReport


def show(report: RunReport, latency: LatencyReport | None, folder: Path) -> None:
    """Print one line per model, what to know about it, and where the files are."""
    console = Console(highlight=False, markup=False)
    console.print(summary_table(report, latency))
    notes = {found.target: found.note for found in report.validation.values() if found.note}
    for target, note in notes.items():
        console.print(f"{target}: {note}", style="dim")
    times = latency.rows if latency else ()
    slower = [row.name for row in times[1:] if row.ratio > 1.0]
    if slower:
        console.print(f"slower than float on this machine: {', '.join(slower)}", style="dim")
    console.print(f"files: {folder}")


def summary_table(report: RunReport, latency: LatencyReport | None) -> Table:
    """One row for the float model and one per target: accuracy, distance, size, latency."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.title = f"{report.recipe}: {report.samples} test samples"
    table.add_column("model", no_wrap=True)
    headings = (
        "\ntorch",
        "onnx-\nruntime",
        "equal\ntop-1",
        "SQNR\ndB",
        "size\nKiB",
        "over\nfloat",
        "time\nus",
        "over\nfloat",
        "int.\nlayers",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    times = {row.name: row for row in latency.rows} if latency else {}
    for row in report.rows:
        time = times.get(row.name)
        table.add_row(
            row.name,
            _percent(row.torch),
            _percent(row.onnxruntime),
            _percent(row.agreement),
            "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
            f"{row.bytes / 1024:.1f}",
            f"{row.size_ratio:.3f}",
            "" if time is None else f"{time.median_ms * 1000:.0f}",
            "" if time is None else f"{time.ratio:.2f}",
            f"{row.integer_layers}/{row.layers}",
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
