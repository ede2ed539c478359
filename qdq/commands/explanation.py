"""`qdq explain`: in which numbers every node of a file runs, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.outputs import report_file
from qdq.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from qdq.records.explanation import ExplanationReport, Fate, NodeRow

_SHOWN = 400  # lines of a table; --json holds all
_STYLES: "dict[Fate, str]" = {
    "integer": "green",
    "float": "yellow",
    "convert": "cyan",
    "index": "dim",
    "folded": "dim",
    "removed": "dim",
}


def explain(
    file: Annotated[Path, typer.Argument(help="An ONNX file, whoever wrote it.")],
    target: Annotated[
        str, typer.Option(help="onnxruntime, tensorrt, or a variant: tensorrt:8.")
    ] = ("onnxruntime"),
    runs: Annotated[int, typer.Option(help="Time each kernel of onnxruntime in so many.")] = 0,
    size: Annotated[
        list[str] | None,
        typer.Option(help="Of a dimension that varies, NAME=8, else 1; repeat."),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            help="Compare with an engine of TensorRT: its layers, as trtexec writes them."
        ),
    ] = None,
    build: Annotated[
        bool, typer.Option("--build", help="Build the engine here, with TensorRT, and compare.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--all", help="Also show constants, and pairs that cost nothing.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="The explanation, as JSON.")] = None,
) -> None:
    """Say of every node of FILE in which numbers it runs, in which kernel, and what kept it float.

    A node

        integer   computes on codes
        float     computes on floats; the rule says what is missing
        convert   makes codes of floats or floats of codes, in every run
        index     computes sizes, indices or truth values
        folded    constant, computed once
        removed   nothing is left to do for it

    Of onnxruntime it is read from the graph that its CPU provider makes of the file; of TensorRT,
    which need not be here, predicted from its rules. With `--engine` or `--build` the prediction
    is compared with an engine, node by node: on the machine that builds it,

        trtexec --onnx=model.onnx --profilingVerbosity=detailed --exportLayerInfo=layers.json

    **Examples**

        qdq explain model.onnx

        qdq explain model.onnx --runs 100 --size batch=8

        qdq explain model.onnx --target tensorrt --engine layers.json --json explained.json
    """
    from qdq.commands.sizes import read_sizes
    from qdq.graph.explaining.engines import explain_engine
    from qdq.graph.explaining.explanation import explain as ask
    from qdq.records.base import to_json_text

    sizes, compares = read_sizes(size or ()), build or engine is not None
    if compares and (runs or (build and engine is not None)):
        raise InputError(
            "an engine is compared, built here or from a file, and not timed",
            fix="pass --build or --engine FILE, and no --runs",
        )
    with report_file(json, [file, engine]) as json_file:
        compared = explain_engine(file, engine, target=target, sizes=sizes) if compares else None
        report = compared.predicted if compared else ask(file, target, runs=runs, sizes=sizes)
        if json_file is not None:
            whole_report = (compared or report).to_dict()
            json_file.write_text(to_json_text(whole_report), encoding="utf-8")
    _show(report, whole=whole)
    if compared is not None:
        typer.echo(str(compared))


def _show(report: "ExplanationReport", *, whole: bool) -> None:
    """Print one row per node, one per kernel if they were timed, and the sums."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    rows = [row for row in report.rows if whole or not _is_free(row)]
    table = _table("node", "op", "runs", "kernel", "rule", "why", "MACs")
    for row in rows[:_SHOWN]:
        macs = "" if row.macs is None else f"{row.macs:,}"
        cells = (row.name, row.op, row.fate, row.kernel, row.rule, row.why, macs)
        table.add_row(*cells, style=_STYLES[row.fate])
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"and {len(rows) - _SHOWN} more: --json FILE holds all")
    timed = [each for each in report.kernels if each.microseconds is not None]
    if timed:
        table = _table("us", "kernel", "runs", "does the work of")
        for kernel in sorted(timed, key=lambda each: -(each.microseconds or 0))[:_SHOWN]:
            near = f"(added for {kernel.near})" if kernel.near else "(added)"
            names = ", ".join(kernel.nodes) or near
            table.add_row(f"{kernel.microseconds:,.0f}", kernel.op, kernel.fate, names)
        console.print(table)
    console.print(str(report))


def _is_free(row: "NodeRow") -> bool:
    """Whether a node takes no time of its own and no user asks what became of it."""
    pair = row.op in ("QuantizeLinear", "DequantizeLinear")
    return row.fate == "folded" or (pair and row.fate in ("integer", "removed"))


def _table(*headings: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
