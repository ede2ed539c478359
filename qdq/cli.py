"""The command line. Every error of ours is one clear text on standard error and exit code 2."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from qdq.errors import QdqError

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
        typer.Option(help="How ranges are chosen: mse, max, percentile, entropy, coverage."),
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
        method = "mse"                    # or max, percentile, entropy, coverage
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


def _data_key(data: str | None) -> str:
    """Whether --data names a kind of data or a place of it."""
    from qdq.data.opening import SOURCES

    return "data.source" if data and (":" in data or data in SOURCES) else "data.path"


if __name__ == "__main__":
    main()
