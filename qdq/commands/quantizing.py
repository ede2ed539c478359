"""`qdq quantize`: a float ONNX file into one with Q and DQ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.batches import batches_of
from qdq.commands.outputs import report_file

if TYPE_CHECKING:
    from qdq.records.quantizing import QuantizationReport

_SHOWN = 400  # lines of the table; --json holds all
_STYLES = {"integer": "green", "float": "yellow"}


def quantize(
    source: Annotated[Path, typer.Argument(help="A float ONNX file, whoever wrote it.")],
    destination: Annotated[Path, typer.Argument(help="Where to write the quantized one.")],
    data: Annotated[
        str, typer.Option(help="What to run it on: .npy, .npz, a folder of them, module:function.")
    ],
    target: Annotated[str, typer.Option(help="tensorrt or onnxruntime.")],
    method: Annotated[
        str,
        typer.Option(help="mse, max, percentile, entropy, coverage, auto, or best: try them."),
    ] = "mse",
    batch_size: Annotated[int, typer.Option(help="Rows a batch.")] = 32,
    batches: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Nodes or operators to leave float; repeat.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="The report, as JSON.")] = None,
) -> None:
    """Quantize SOURCE for a runtime, with ranges from what its tensors see on data.

    The file runs in float in onnxruntime, once over the data; BatchNormalizations are folded, and
    opsets below 13 converted. Then both files run on the first batches, and their outputs are
    compared. No torch is needed, unless the data needs it. On an error nothing is written.

    **Data** is what the float model takes, prepared as for its training:

        rows.npy           the rows of its only input
        batch.npz          an array for each input, by its name
        folder             of such files, in the order of their names
        module:function    called with "train" and the batch size; gives batches of arrays, or of
                           dictionaries by input name, or pairs of one of these and labels

    **What to ignore** is named by node or by operator:

        /layer1/conv1/Conv      a node; one without a name is called operator_output
        'Concat'                an operator
        '*/head/*'              a glob
        're:(stem|head)'        a regular expression, searched in the name
        'first->last'           from-to: all between two nodes, both included

    **Examples**

        qdq quantize float.onnx int8.onnx --data images.npy --target onnxruntime

        qdq quantize float.onnx int8.onnx --data calibration/ --target tensorrt
            --ignore Concat --method percentile --json report.json
    """
    from qdq.graph.quantizing.quantization import quantize as run
    from qdq.records.base import to_json_text

    rows = batches_of(data, batch_size)
    with report_file(json, [source, destination]) as json_file:
        report = run(
            source,
            destination,
            rows,
            target=target,
            method=method,
            ignore=ignore or (),
            batches=batches,
        )
        if json_file is not None:
            json_file.write_text(to_json_text(report.to_dict()), encoding="utf-8")
    _show(report)


def _show(report: "QuantizationReport") -> None:
    """Print one row per node that computes, and how close the outputs come."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("node", "op", "computes in", "why"):
        table.add_column(heading, overflow="fold")
    for row in report.rows[:_SHOWN]:
        table.add_row(row.name, row.op, row.numbers, row.why, style=_STYLES[row.numbers])
    console.print(table)
    if len(report.rows) > _SHOWN:
        console.print(f"and {len(report.rows) - _SHOWN} more: --json FILE holds all")
    console.print(str(report))
