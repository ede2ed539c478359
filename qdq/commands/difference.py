"""`qdq diff`: what two ONNX files differ in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.outputs import report_file

if TYPE_CHECKING:
    from qdq.records.difference import DifferenceReport

_SHOWN = 200  # lines of the table; --json holds all


def diff(
    a: Annotated[Path, typer.Argument(help="An ONNX file.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    json: Annotated[Path | None, typer.Option(help="The differences, as JSON.")] = None,
) -> None:
    """Compare two ONNX files: nodes, Q/DQ pairs, weights and scales, opset, metadata.

    Nothing is run. Nodes and initializers are found again by name. Values that differ are given
    by their largest absolute difference, those of scales and codes also in quantization steps.

    **Exit code** 0: the same; 1: different; 2: a file cannot be used.

    **Example**

        qdq diff model.tensorrt.onnx model.onnxruntime.onnx
    """
    from qdq.graph.differing.difference import diff as compare
    from qdq.records.base import to_json_text

    with report_file(json, [a, b]) as json_file:
        report = compare(a, b)
        if json_file is not None:
            json_file.write_text(to_json_text(report.to_dict()), encoding="utf-8")
    _show(report)
    if report.rows:
        raise typer.Exit(1)


def _show(report: "DifferenceReport") -> None:
    """Print one row per difference, and the counts."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if report.rows:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading in ("of", "change", "name", "op", "what", "largest", "steps"):
            table.add_column(heading, overflow="fold")
        for row in report.rows[:_SHOWN]:
            numbers = ["" if each is None else f"{each:.3g}" for each in (row.largest, row.steps)]
            table.add_row(row.subject, row.change, row.name, row.op, row.what, *numbers)
        console.print(table)
    if len(report.rows) > _SHOWN:
        console.print(f"and {len(report.rows) - _SHOWN} more: --json FILE holds all")
    console.print(str(report))
