"""`qdq lint`: which rules of its runtime a Q/DQ file breaks."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.outputs import report_file
from qdq.errors import InputError

if TYPE_CHECKING:
    from qdq.records.findings import LintReport

_SHOWN = 200  # lines of the table; --json holds all


def lint(
    file: Annotated[Path, typer.Argument(help="A Q/DQ ONNX file, whoever wrote it.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="tensorrt or onnxruntime, or a variant of one: see below.",
            show_default="what our export noted in the file",
        ),
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Write a copy with what can be mended exactly.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="The findings, as JSON.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="The findings, as SARIF 2.1.0.")] = None,
    skip_small: Annotated[
        bool, typer.Option("--skip-small", help="Also find int8 layers too small to gain.")
    ] = False,
    reduce_range: Annotated[
        bool,
        typer.Option("--reduce-range", help="Also find weights of more than 7 bits (no VNNI)."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
) -> None:
    """Find what TensorRT or onnxruntime would refuse, compute otherwise, or run slowly, and why.

    Each finding has the id of its rule, a severity, the node, the reason and what to do:

        error     the runtime refuses the file or computes something else
        warning   it runs slower or less exactly than it could
        note      worth knowing

    **`--fix`** mends what does not change a single computed value, and nothing else: uint8 codes
    around 128 become int8, int32 biases float, weights float where the version wants it (TensorRT);
    second and equal pairs go, missing zero points are written, zero points move to the lowest code
    behind a ReLU where nothing is clipped, int8 codes with several readers become uint8
    (onnxruntime); unread pairs go, axes are counted from the front. The findings are then those
    of the copy.

    **Variants** of a target have rules of their own:

        tensorrt:8                     weights are floats in front of Q and DQ (T06)
        onnxruntime:arm                int8 codes are as good as uint8 (O27)
        onnxruntime:x86-without-vnni   weights have 7 bits (O24)

    **Exit code** 0: no errors; 1: errors; 2: the file cannot be used, and nothing was written.

    **Examples**

        qdq lint model.onnx --target tensorrt

        qdq lint model.onnx --target onnxruntime --fix mended.onnx --sarif lint.sarif
    """
    from qdq.graph.linting.judging import lint as judge
    from qdq.graph.linting.sarif import to_sarif
    from qdq.records.base import to_json_text
    from qdq.spec import QuantSpec
    from qdq.targets import get

    options: dict[str, object] = {"skip_small": True} if skip_small else {}
    if reduce_range:
        options["weight"] = QuantSpec(bits=7, narrow=True)
    if options and target is None:
        raise InputError(
            "--skip-small and --reduce-range say more of a target, and none is named",
            fix="pass --target too",
        )
    with ExitStack() as opened:  # all or none, and told before any work if one cannot be written
        json_file, sarif_file = (
            opened.enter_context(report_file(place, others))
            for place, others in ((json, [file, fix]), (sarif, [file, fix, json]))
        )
        report = judge(file, None if target is None else get(target, **options), fix=fix)
        if json_file is not None:
            json_file.write_text(to_json_text(report.to_dict()), encoding="utf-8")
        if sarif_file is not None:
            sarif_file.write_text(to_json_text(to_sarif(report)), encoding="utf-8")
    _show(report)
    counts = report.counts
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(1)


def _show(report: "LintReport") -> None:
    """Print what was mended, one row per finding, and the counts."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if report.rows:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading in ("rule", "severity", "node", "what is wrong", "what to do"):
            table.add_column(heading, overflow="fold")
        for row in report.rows[:_SHOWN]:
            table.add_row(row.rule, row.severity, row.node, row.why, row.fix)
        console.print(table)
    if len(report.rows) > _SHOWN:
        console.print(f"and {len(report.rows) - _SHOWN} more: --json FILE holds all")
    for row in report.mended:
        console.print(f"mended {row.rule} at {row.node}: {row.why}")
    console.print(str(report).partition("\n")[0])
