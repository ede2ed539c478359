"""The command line. Every error of ours is one clear text on standard error and exit code 2."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from qdq.commands.benching import bench
from qdq.commands.calibration import calibrate
from qdq.commands.difference import diff
from qdq.commands.explanation import explain
from qdq.commands.linting import lint
from qdq.commands.models import example_inputs, inserted_model
from qdq.commands.quantizing import quantize
from qdq.commands.retargeting import retarget
from qdq.commands.validation import validate
from qdq.errors import InputError, QdqError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `qdq`."""
    sys.path.insert(0, str(Path.cwd()))  # so that `package.module:factory` is found where it lies
    try:
        app(args=arguments)
    except QdqError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        from qdq.version import version

        typer.echo(f"qdq {version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """A trained PyTorch model into INT8 that is accurate, runs in integers, and shows it.

    **The whole way, from one file:**

    `qdq run lenet_digits` goes through a recipe that comes with the package: it folds BatchNorms,
    inserts quantizers, chooses ranges from data, writes ONNX for TensorRT and for onnxruntime, and
    validates both in onnxruntime. `qdq run my.toml` does the same with yours.

    `qdq recipes` lists those that come with the package; `qdq run --help` explains one.

    **Step by step:**

    `qdq insert models.lenet:lenet_digits --shape 1,1,32,32 --dry-run` shows where quantizers would
    go and why.

    `qdq calibrate models.lenet:lenet_digits --data digits --out lenet.safetensors` inserts them
    and chooses their ranges.

    **Anyone's float ONNX file:**

    `qdq quantize float.onnx int8.onnx --data rows.npy --target onnxruntime` quantizes it; no torch.

    **Anyone's Q/DQ file:**

    `qdq lint model.onnx --target tensorrt` names every rule of the runtime that it breaks.

    `qdq explain model.onnx` says in which numbers every node runs; `qdq diff a.onnx b.onnx`
    compares two.

    `qdq retarget a.onnx b.onnx --target tensorrt` rewrites it for another runtime, with a
    certificate of what differs.

    `qdq bench float.onnx int8.onnx` times them side by side; `qdq bench --fit costs.json` measures
    this machine.

    `qdq validate model.onnx --data digits --exact` runs it and predicts every code.
    """


@app.command()
def recipes() -> None:
    """List the recipes that come with the package."""
    from qdq.recipe import read_recipe, shipped

    for name in shipped():
        typer.echo(f"{name:<24} {read_recipe(name).description}")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or the path of a .toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Output folder.", show_default="runs/NAME")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="File or folder of the data; or a kind of data, or module:function."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="How ranges are chosen: mse, max, percentile, entropy, coverage, auto."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="tensorrt, onnxruntime; repeat for several.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Layers to leave float: c1, 're:^f'; repeat.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="sensitivity, finetune, latency, report: leave it out; repeat."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Errors only.")] = False,
) -> None:
    """Go the whole way of a RECIPE: fuse, insert, calibrate, export, validate, report.

    Options replace what the recipe says. The output folder gets `model.<target>.onnx` per target
    and `model.float.onnx`, `report.html` and `report.json`, `ranges.safetensors`, `manifest.json`
    (versions and hashes) and `timings.json`; on an error nothing is written.

    **A recipe** is a TOML file:

        name = "my_net"

        [model]
        factory = "my_package.my_module:build"   # from the working directory
        weights = "my_net.safetensors"      # optional; so is sha256

        [data]
        source = "my_package.my_data:batches"    # or a kind of data, see below
        batch_size = 64

        [insert]                                 # optional from here on
        ignore = ["head", "re:^stem"]            # or only = [...]

        [calibrate]
        method = "mse"                    # or max, percentile, entropy, coverage, auto
        tier = "best"                     # weights are repaired too; else "plain"
        batches = 8

        [sensitivity]                            # what each layer costs
        batches = 4

        [export]
        targets = ["tensorrt", "onnxruntime"]
        opset = 13

        [finetune]                               # QAT, then export again
        epochs = 1
        lr = 0.001

    `batches(split, batch_size)` gives an iterable of (inputs, labels); split is "train", for
    calibration and training, or "test", for validation. Kinds of data are `digits`, `cifar10`,
    `imagenet`, `mnist`, `folder` (of images by class) and `arrays` (.npz, .npy); with them go
    `path` (or --data, or $QDQ_DATA), and `mean`, `std` and `size` of images.

    **Examples**

        qdq run lenet_digits

        qdq run my.toml --target onnxruntime --method max --out /tmp/my_net
    """
    from qdq.pipeline import run as go
    from qdq.recipe import read_recipe

    chosen = read_recipe(recipe)
    replaced = {
        _data_key(data): data,
        "calibrate.method": method,
        "export.targets": target,
        "insert.ignore": ignore,
    }
    chosen = chosen.replaced({key: value for key, value in replaced.items() if value})
    folder = out or Path("runs") / chosen.name
    tell = (lambda _: None) if quiet else typer.echo
    result = go(chosen, folder, skip=skip or (), tell=tell, progress=not quiet)
    if not quiet:
        from qdq.report.table import show

        show(result.report, result.latency, folder)


@app.command()
def insert(
    model: Annotated[str, typer.Argument(help="What builds it: package.module:factory.")],
    weights: Annotated[
        Path | None, typer.Option(help="Its float weights, .safetensors or .npz.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Call it with zeros of this shape, 1,3,224,224; repeat for more inputs."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Call it with the first batch of a file, folder, kind, module:function."),
    ] = None,
    target: Annotated[str, typer.Option(help="tensorrt or onnxruntime.")] = "tensorrt",
    ignore: Annotated[
        list[str] | None, typer.Option(help="What to leave float: see below; repeat.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Leave everything else float; repeat.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, write no model.")] = False,
    out: Annotated[Path | None, typer.Option(help="The quantized model, .safetensors.")] = None,
    json: Annotated[Path | None, typer.Option(help="The decisions, as JSON.")] = None,
) -> None:
    """Give MODEL quantizers and say of every site whether it is on, and why.

    One forward is recorded, with `--shape` or `--data`, to see what reads what; without them the
    model is traced, where torch.fx can. BatchNorms are folded. What `--out` holds has no ranges
    yet: `qdq.load` it into a fresh model and `qdq.calibrate` that.

    **A kind of data** is one of `digits`, `cifar10`, `imagenet`, `mnist` (from $QDQ_DATA);
    `module:function` is called with a split and a batch size, as `qdq run --help` says.

    **What to ignore** is named by module or call site; what lies inside is meant too:

        layer1                  a module
        'layer?.*.conv1'        a glob
        're:(stem|head)$'       a regular expression, searched in the name
        'layer1->layer3'        from-to: all between two modules, both included

    **Examples**

        qdq insert models.lenet:lenet_digits --shape 1,1,32,32 --dry-run

        qdq insert my_nets:build --weights my.safetensors --shape 1,3,224,224
            --target onnxruntime --ignore 'stem->layer1' --out my.int8.safetensors
    """
    from qdq.insertion.checkpoints import save
    from qdq.records.base import written_whole
    from qdq.report.decisions import show_decisions
    from qdq.targets import get

    runtime = get(target)
    if out is None and not dry_run:
        raise InputError(
            "nothing says where to write the model", fix="pass --out FILE, or --dry-run to look"
        )
    with ExitStack() as files:  # both or none, and told before any work if they cannot be written
        model_file = None if dry_run or out is None else files.enter_context(written_whole(out))
        json_file = None if json is None else files.enter_context(written_whole(json))
        example = example_inputs(shape or [], data)
        net, report = inserted_model(
            model, weights, example, target=runtime, ignore=ignore or (), only=only or ()
        )
        if model_file is not None:
            save(net, model_file)
        if json_file is not None:
            report.to_json(json_file)
    show_decisions(report)


app.command()(bench)
app.command()(calibrate)
app.command()(lint)
app.command()(explain)
app.command()(diff)
app.command()(quantize)
app.command()(retarget)
app.command()(validate)


def _data_key(data: str | None) -> str:
    """Whether --data names a kind of data or a place of it."""
    from qdq.data.examples import names_source

    return "data.source" if data and names_source(data) else "data.path"


if __name__ == "__main__":
    main()
