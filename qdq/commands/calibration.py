"""`qdq calibrate`: data, or what other machines counted, into ranges."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdq.commands.models import Images, example_inputs, inserted_model, numbers, open_data
from qdq.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from qdq.calibration.origins import Origin
    from qdq.records.calibration import CalibrationReport

_Numbers = Annotated[str, typer.Option(help="Of images in 0..1, per channel: 0.485,0.456,0.406.")]


def calibrate(
    model: Annotated[str, typer.Argument(help="What builds it: package.module:factory.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="With --merge: files of --histograms.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Its float weights, .safetensors or .npz.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="What to run it on: file, folder, kind, module:function.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a batch.")] = 64,
    batches: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    share: Annotated[
        str, typer.Option(help="Every Nth batch from number R: R/N; 0/2 and 1/2 are all.")
    ] = "0/1",
    size: Annotated[int | None, typer.Option(help="Side of the square cut from images.")] = None,
    mean: _Numbers = "",
    std: _Numbers = "",
    method: Annotated[
        str,
        typer.Option(help="How ranges are chosen: mse, max, percentile, entropy, coverage, auto."),
    ] = "mse",
    tier: Annotated[str, typer.Option(help="plain, or best: weights are repaired too.")] = "plain",
    repair: Annotated[
        list[str] | None,
        typer.Option(help="bias, equalization, migration, propagation, rounding; repeat."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Take what FILES counted instead of --data.")
    ] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="With --merge: record a forward with zeros, 1,3,224,224; repeat."),
    ] = None,
    target: Annotated[str, typer.Option(help="tensorrt or onnxruntime.")] = "tensorrt",
    ignore: Annotated[
        list[str] | None, typer.Option(help="What to leave float: as for insert; repeat.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Leave everything else float; repeat.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The quantized model, .safetensors.")] = None,
    ranges: Annotated[Path | None, typer.Option(help="The ranges, .safetensors.")] = None,
    histograms: Annotated[Path | None, typer.Option(help="What was counted, .hist.")] = None,
    json: Annotated[Path | None, typer.Option(help="The report, as JSON.")] = None,
) -> None:
    """Give MODEL quantizers, and each a range from what it sees on data.

    The model runs in float, once over the data. What every site sees is counted, for all targets
    at once; then the method chooses the ranges. `--out` holds the model with its ranges:
    `qdq.load` it into a fresh model. On an error nothing is written.

    **Data** is named as for `qdq insert`; of a kind of data the train split is read. Images are
    calibrated as they are fed later: pass the `--size`, `--mean` and `--std` of the training.

    **Several machines** count a share each and need not know of each other. `--histograms` keeps
    what one counted, and `--merge` chooses ranges from all of it, bit for bit as one machine would
    that ran all the batches. Model, weights and `--ignore` must be the same everywhere.

    **Another method** needs no second pass: keep the histograms, and `--merge` that one file. With
    `--merge`, `--shape` or `--data` only say what to record a forward with, as for `qdq insert`.

    **Examples**

        qdq calibrate models.lenet:lenet_digits --data digits --batches 4 --out lenet.safetensors

        qdq calibrate my_nets:build --weights my.safetensors --data my_data:batches
            --share 0/2 --histograms a.hist            # the other machine: --share 1/2, b.hist

        qdq calibrate my_nets:build --weights my.safetensors --shape 1,3,224,224
            --merge a.hist b.hist --method percentile --out my.int8.safetensors
    """
    from qdq.calibration.choosing import calibrate as run
    from qdq.calibration.files import save_histograms
    from qdq.calibration.origins import origin_of
    from qdq.calibration.ranges import histograms_of
    from qdq.insertion.checkpoints import save, save_ranges
    from qdq.records.base import written_whole
    from qdq.targets import get

    runtime, counted, part = get(target), list(files or ()), _part(share)
    images = Images(size, numbers(mean, "--mean"), numbers(std, "--std"))
    places = (out, ranges, histograms, json)
    _require_work(places, counted, data, shape, merge=merge)
    _require_repairable((tier, *(repair or ())), part, histograms, merge=merge)
    with ExitStack() as opened:  # all or none, and told before any work if one cannot be written
        model_file, ranges_file, histograms_file, json_file = (
            None if place is None else opened.enter_context(written_whole(place))
            for place in places
        )
        example = example_inputs(shape or [], data, images)
        net, _ = inserted_model(
            model, weights, example, target=runtime, ignore=ignore or (), only=only or ()
        )
        if merge:
            report, origin = _merged(net, counted, method)
        else:
            source = open_data(data or "", batch_size, images)
            origin = origin_of(net, share=part)
            own = _share_of(source, part, batches)
            report = run(net, own, method=method, tier=tier, repair=repair or ())
            origin = replace(origin, batches=report.batches, samples=report.samples)
        if model_file is not None:
            save(net, model_file)
        if ranges_file is not None:
            save_ranges(net, ranges_file)
        if histograms_file is not None:
            save_histograms(histograms_of(net), histograms_file, origin)
        if json_file is not None:
            report.to_json(json_file)
    _show(report)


def _require_work(
    places: "Sequence[Path | None]",
    files: "Sequence[Path]",
    data: str | None,
    shapes: "Sequence[str] | None",
    *,
    merge: bool,
) -> None:
    """InputError unless the options say what to count or read, and where to keep it."""
    wrong = {
        "nothing says where to write": (
            not any(places),
            "pass --out FILE for the model, or --ranges, --histograms or --json",
        ),
        "--merge has no FILES": (
            merge and not files,
            "name what --histograms kept: qdq calibrate MODEL --merge a.hist b.hist",
        ),
        f"FILES are read with --merge only: {', '.join(map(str, files))}": (
            bool(files) and not merge,
            "pass --merge, or one MODEL alone",
        ),
        "nothing says what to calibrate with": (
            not merge and data is None,
            "pass --data, or --merge and files of histograms",
        ),
        "--shape says how to record a forward, and --data does": (
            not merge and bool(shapes),
            "leave --shape out",
        ),
    }
    for what, (found, fix) in wrong.items():
        if found:
            raise InputError(what, fix=fix)


def _require_repairable(
    asked: "Sequence[str]", part: tuple[int, int], histograms: Path | None, *, merge: bool
) -> None:
    """InputError where repairs would run on no data or on a share, or spoil what is kept."""
    if asked == ("plain",):
        return
    if merge or part[1] > 1:
        raise InputError(
            "--tier and --repair need all the data, and here is a share or none",
            fix="leave them out here; repair with --data alone, on one machine",
        )
    if histograms is not None and {"equalization", "migration"} & set(asked):
        raise InputError(
            "--histograms would be of scaled weights that no other run has",
            fix="leave --histograms or --repair equalization and migration out",
        )


def _part(text: str) -> tuple[int, int]:
    """R/N as two numbers, 0 <= R < N."""
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and int(number) < int(of):
        return int(number), int(of)
    raise InputError(
        f"{text!r} is no share of the batches",
        fix="write --share R/N with R from 0 to N - 1: of two machines 0/2 and 1/2",
    )


def _share_of(
    data: "Iterable[object]", part: tuple[int, int], limit: int | None
) -> Iterator[object]:
    from qdq.calibration.distribution import own_share
    from qdq.data import numbered

    return (batch for _, batch in own_share(numbered(data, limit=limit), part))


def _merged(
    net: "nn.Module", files: "Sequence[Path]", method: str
) -> "tuple[CalibrationReport, Origin]":
    from qdq.calibration.choosing import choose_ranges
    from qdq.calibration.files import load_merged
    from qdq.calibration.origins import difference, origin_of

    histograms, origin = load_merged(files)
    unlike = difference(origin, origin_of(net))
    if unlike:
        raise InputError(
            f"the histograms are not of this model: {unlike}",
            at=str(files[0]),
            fix="pass the --weights, --ignore and --only that they were counted with",
        )
    report = choose_ranges(net, method, histograms=histograms)
    return replace(report, batches=origin.batches, samples=origin.samples), origin


def _show(report: "CalibrationReport") -> None:
    """Print one line per site, then what they sum up to."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("site", overflow="fold")
    for heading in ("from", "to", "saw from", "to", "values"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        ends = (row.amin, row.amax, row.seen_min, row.seen_max)
        table.add_row(row.site, *(f"{end:.4g}" for end in ends), f"{row.values:,}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(str(report))
