"""`qdq retarget`: one target's Q/DQ file in the form of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.batches import batches_of
from qdq.commands.outputs import report_file

if TYPE_CHECKING:
    from qdq.records.retargeting import RetargetReport

_SHOWN = 400  # lines of a table; --json holds all
_STYLES = {"integer": "green", "float": "yellow"}


def retarget(
    source: Annotated[Path, typer.Argument(help="A Q/DQ ONNX file, whoever wrote it.")],
    destination: Annotated[Path, typer.Argument(help="Where to write the rewritten one.")],
    target: Annotated[str, typer.Option(help="tensorrt or onnxruntime, or a variant: tensorrt:8.")],
    match: Annotated[
        bool, typer.Option("--match", help="Keep steps: codes of both files map one to one.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="What to run both on, 16 batches: .npy, .npz, a folder of them, module:function."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="How ranges missing in the file are chosen on the data.")
    ] = "mse",
    batch_size: Annotated[int, typer.Option(help="Rows a batch of the data.")] = 32,
    json: Annotated[Path | None, typer.Option(help="The certificate, as JSON.")] = None,
) -> None:
    """Rewrite SOURCE, quantized for one runtime, into the form that another one runs fast.

    The Q/DQ pairs are taken out and what they say is kept; then pairs are placed anew:

        tensorrt       int8 around 0, on what layers read, behind activations; one input of a
                       residual addition; float biases
        onnxruntime    uint8, behind every layer too; int32 biases; rewritten for speed

    Weights stay what they are, code for code. **Ranges** are those of the file, or follow from a
    neighbour's (behind a ReLU, a pool, a Reshape ...). A place without one stays float and is
    named, unless `--data` is given: then it is measured. A file for TensorRT has no range of what
    is added to a residual branch, so `--data` matters there.

    **The certificate** says of each operator how far apart both forms of it are, run alone in
    onnxruntime on equal values, in steps of the coarser grid; of each rounded tensor its grid in
    both files and which share of its values is clipped; of the whole files how far apart they are,
    on the data or on random inputs; and what could not be kept.

    **Examples**

        qdq retarget model.tensorrt.onnx model.cpu.onnx --target onnxruntime --data rows.npy

        qdq retarget anyones.onnx gpu.onnx --target tensorrt --match --json certificate.json
    """
    from qdq.graph.retargeting.rewriting import retarget as rewrite
    from qdq.records.base import to_json_text

    batches = None if data is None else batches_of(data, batch_size)
    with report_file(json, [source, destination]) as json_file:
        report = rewrite(
            source,
            destination,
            target,
            match=match,
            data=batches,
            method=method,
        )
        if json_file is not None:
            json_file.write_text(to_json_text(report.to_dict()), encoding="utf-8")
    _show(report)


def _show(report: "RetargetReport") -> None:
    """Print one row per operator and per rounded tensor, and the summary."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    operators = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("node", "op", "computes in", "weight", "steps", "why"):
        operators.add_column(heading, overflow="fold")
    for row in report.rows[:_SHOWN]:
        steps = "" if row.steps is None else f"{row.steps:.3g}"
        operators.add_row(
            row.name, row.op, row.fate, row.weight, steps, row.why, style=_STYLES[row.fate]
        )
    tensors = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("site", "grid before", "grid after", "range from", "clipped"):
        tensors.add_column(heading, overflow="fold")
    for grid in report.grids[:_SHOWN]:
        shares = (grid.clipped_before, grid.clipped_after)
        clipped = " -> ".join("?" if each is None else f"{each:.2%}" for each in shares)
        tensors.add_row(grid.site, grid.before, grid.after, grid.origin, clipped)
    for table, count in ((operators, len(report.rows)), (tensors, len(report.grids))):
        if count:
            console.print(table)
        if count > _SHOWN:
            console.print(f"and {count - _SHOWN} more: --json FILE holds all")
    console.print(str(report))
