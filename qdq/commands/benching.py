"""`qdq bench`: what files take side by side, and what this machine's kernels take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qdq.commands.outputs import report_file
from qdq.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from qdq.records.benching import BenchReport

_WORST = 10  # nets of a fit that are shown


def bench(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="ONNX files; the first is what others are divided by."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Of one operator; repeat for several.", show_default="1"),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            help="Rows of the input; repeat for several.", show_default="the file's, or 1"
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(help="onnxruntime's: cpu, cuda, ...; repeat.", show_default="cpu"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each file that are counted.")] = 30,
    clock: Annotated[
        Literal["auto", "cpu", "wall"],
        typer.Option(help="CPU time of this process, or elapsed time."),
    ] = "auto",
    size: Annotated[
        list[str] | None,
        typer.Option(help="Of a dimension that varies, NAME=8, else 1; repeat."),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Measure this machine instead, and write its costs here.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="The times, as JSON.")] = None,
) -> None:
    """Time ONNX FILES side by side in onnxruntime, in a way that can be believed.

    Files take turns of some 5 ms on equal random inputs. A ratio is the median over rounds of a
    file's time over the first file's in the same round, [with its quartiles]: a busy neighbour
    slows both alike. On one thread of the CPU the time counted is that of this process.

    **--fit** measures some 200 small nets on this machine instead, in half a minute, and writes
    what its kernels take. The target `onnxruntime` then predicts times, and leaves float what is
    faster so, for this machine:

        qdq.targets.get("onnxruntime", fastest=True, costs="costs.json")

    **Examples**

        qdq bench model.float.onnx model.onnxruntime.onnx

        qdq bench a.onnx b.onnx --threads 1 --threads 2 --batch 1 --batch 16 --json times.json

        qdq bench --fit costs.json
    """
    from qdq.commands.sizes import read_sizes
    from qdq.graph.benching.comparison import bench as compare
    from qdq.records.base import to_json_text

    if bool(files) == (fit is not None):
        raise InputError(
            "name files to time, or a file for --fit, and not both",
            fix="qdq bench a.onnx b.onnx, or qdq bench --fit costs.json",
        )
    if fit is not None:
        if threads or batch or provider or size or json or clock != "auto":
            raise InputError(
                "--fit takes --rounds and nothing else", fix="qdq bench --fit costs.json"
            )
        _fit(fit, rounds)
        return
    with report_file(json, files or ()) as json_file:
        report = compare(
            files or (),
            threads=threads or (1,),
            batches=batch or (),
            providers=provider or ("cpu",),
            rounds=rounds,
            clock=None if clock == "auto" else clock,
            sizes=read_sizes(size or ()),
        )
        if json_file is not None:
            json_file.write_text(to_json_text(report.to_dict()), encoding="utf-8")
    _show(report)


def _fit(path: Path, rounds: int) -> None:
    """Measure this machine, write its table, and say how well it fits."""
    from rich.console import Console

    from qdq.graph.benching.fitting import fit_costs
    from qdq.records.base import to_json_text, written_whole

    with written_whole(path) as temporary:
        fitted = fit_costs(rounds)
        temporary.write_text(to_json_text(fitted.table.to_dict()), encoding="utf-8")
    table = _table("net", "us", "predicted")
    worst = sorted(fitted.rows, key=lambda row: -abs(row.predicted / row.microseconds - 1))
    for row in worst[:_WORST]:
        table.add_row(row.name, f"{row.microseconds:,.1f}", f"{row.predicted:,.1f}")
    console = Console(highlight=False, markup=False)
    console.print("predicted worst:")
    console.print(table)
    console.print(f"{path}: {fitted.table}")


def _show(report: "BenchReport") -> None:
    """Print one row per file and setting."""
    from rich.console import Console

    table = _table(
        "file", "provider", "threads", "batch", "ms", "clock", "quartiles", "ratio", "quartiles"
    )
    for row in report.rows:
        table.add_row(
            row.name,
            row.provider.removesuffix("ExecutionProvider"),
            str(row.threads),
            str(row.batch),
            f"{row.median_ms:.3f}",
            row.clock,
            f"{row.low_ms:.3f}..{row.high_ms:.3f}",
            f"{row.ratio:.3f}",
            f"{row.ratio_low:.3f}..{row.ratio_high:.3f}",
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{report.runtime} on {report.machine}, {report.rounds} rounds")


def _table(*headings: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for number, heading in enumerate(headings):  # names give way, numbers stay on one line
        table.add_column(heading, overflow="fold", no_wrap=number > 0)
    return table
