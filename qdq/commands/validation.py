"""`qdq validate`: an ONNX file in onnxruntime against what it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.models import Images, numbers, open_data
from qdq.commands.outputs import report_file
from qdq.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

_Numbers = Annotated[str, typer.Option(help="Of images in 0..1, per channel: 0.485,0.456,0.406.")]


def validate(
    file: Annotated[Path, typer.Argument(help="An ONNX file, whoever wrote it.")],
    data: Annotated[
        str, typer.Option(help="What to run it on: file, folder, kind, module:function.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Compare with this float model: package.module:factory.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Its float weights, .safetensors or .npz.")
    ] = None,
    quantized: Annotated[
        Path | None, typer.Option(help="Compare with what `qdq calibrate --out` made of it.")
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Compare with another ONNX file; repeat.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare tensor by tensor, in codes.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Predict onnxruntime's codes, and explain what differs.")
    ] = False,
    split: Annotated[str, typer.Option(help="Of a kind of data: test or train.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Rows a batch.")] = 64,
    batches: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square cut from images.")] = None,
    mean: _Numbers = "",
    std: _Numbers = "",
    json: Annotated[Path | None, typer.Option(help="The report, as JSON.")] = None,
) -> None:
    """Run FILE in onnxruntime on data: accuracy, layers in integers, distance to references.

    **Data** is named as for `qdq calibrate`, and images are prepared as for the training: pass its
    `--size`, `--mean` and `--std`. Where batches have labels, top-1 accuracy is shown.

    **References** are the float model (`--model`, `--weights`), the simulation it was exported from
    (`--quantized` as well), and other ONNX files (`--reference`).

    **Layers** finds where a file leaves its references: every quantized tensor is compared in its
    own codes (LSB), with the site of that name in a model, or the tensor of that name in a file.
    It shows the first that differs and the ten worst by LSB and by SQNR; `--json` holds all.

    **Exact** takes the graph that onnxruntime's CPU provider makes of FILE and computes it in
    numpy, code for code, with the arithmetic of its integer kernels. What is not as predicted is
    listed with the node where it begins, and why.

    **Exit code** 0: done; 1: with `--exact`, an output is not as predicted; 2: something cannot be
    used.

    **Examples**

        qdq validate lenet.onnx --data digits --exact

        qdq validate lenet.onnx --data digits --model models.lenet:lenet_digits
            --quantized lenet.safetensors --layers

        qdq validate int8.onnx --reference float.onnx --data my_data:batches --layers
    """
    from qdq.records.base import to_json_text
    from qdq.validation.comparing import validate as compare

    images = Images(size, numbers(mean, "--mean"), numbers(std, "--std"))
    _require_complete(model, weights, quantized, reference or (), layers=layers)
    with report_file(json, [file, weights, quantized, *(reference or ())]) as json_file:
        references: dict[str, nn.Module | Path] = dict(_models(model, weights, quantized))
        references |= {each.name: each for each in reference or ()}
        report = compare(
            file,
            open_data(data, batch_size, images, split=split),
            reference=references,
            batches=batches,
            layers=layers,
            exact=exact,
        )
        if json_file is not None:
            json_file.write_text(to_json_text(report.to_dict()), encoding="utf-8")
    typer.echo(str(report))
    if report.exact is not None and not report.exact.is_exact:
        raise typer.Exit(1)


def _require_complete(
    model: str | None,
    weights: Path | None,
    quantized: Path | None,
    references: "Sequence[Path]",
    *,
    layers: bool,
) -> None:
    """InputError where an option lacks the one it is about."""
    wrong = {
        "--weights and --quantized are of a model, and there is none": (
            model is None and (weights is not None or quantized is not None),
            "pass --model package.module:factory",
        ),
        "--layers compares with a reference, and there is none": (
            layers and model is None and not references,
            "pass --model, or --reference with another ONNX file",
        ),
        "two references have one name": (
            len({each.name for each in references}) < len(references),
            "rename one of the files",
        ),
    }
    for what, (found, fix) in wrong.items():
        if found:
            raise InputError(what, fix=fix)


def _models(
    factory: str | None, weights: Path | None, quantized: Path | None
) -> "dict[str, nn.Module]":
    """The simulation and the float model; one of them where only one has weights."""
    if factory is None:
        return {}
    from qdq.insertion.checkpoints import load
    from qdq.loading import build
    from qdq.recipe import ModelPart

    given = None if weights is None else str(weights)
    found = {}
    if quantized is not None:
        found["fake_quant"] = build(ModelPart(factory=factory, weights=given), root="")
        load(found["fake_quant"], quantized)
    if quantized is None or weights is not None:
        found["float"] = build(ModelPart(factory=factory, weights=given), root="")
    return found
