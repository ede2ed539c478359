"""The whole way of a recipe: fuse, insert, calibrate, export, validate, report."""

import copy
import hashlib
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qdq.calibration.choosing import calibrate
from qdq.data import Inputs, read
from qdq.data.opening import open_source
from qdq.data.sources import Request, call_named
from qdq.errors import InputError
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.graph.files import save as save_onnx
from qdq.insertion.checkpoints import load_tensors, read_tensors, save_ranges
from qdq.insertion.fusing import fuse
from qdq.insertion.placing import retarget
from qdq.insertion.replacing import insert
from qdq.numerics.thresholds import METHODS
from qdq.recipe import DataPart, ModelPart, Recipe
from qdq.records.base import to_json_text
from qdq.records.run import RunReport, SummaryRow
from qdq.records.validation import LatencyReport, ValidationReport
from qdq.targets import get
from qdq.validation.comparing import validate
from qdq.validation.latency import compare_latency
from qdq.version import version

FLOAT = "float"
Tell = Callable[[str], None]
Data = Iterable[object]


@dataclass(frozen=True)
class RunResult:
    """What `run` gives back.

    Attributes:
        folder: the output folder.
        report: as in report.json.
        latency: as in timings.json.
    """

    folder: Path
    report: RunReport
    latency: LatencyReport


def run(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    tell: Tell = lambda _: None,
    progress: bool = True,
) -> RunResult:
    """Go the whole way and leave the output folder; on an error nothing is left.

    The folder holds model.float.onnx, model.<target>.onnx, report.json, report.html,
    ranges.safetensors, manifest.json and timings.json. All but the last are the same bytes for
    the same recipe on the same machine.

    Args:
        recipe: see `qdq.recipe.read_recipe`.
        out: the folder; it is made, and files of the same names in it are replaced.
        tell: called with one line as each stage begins.
        progress: show bars on a terminal.

    Raises:
        QdqError: whatever is wrong with recipe, weights, data, model or folder.
    """
    torch.manual_seed(recipe.seed)
    for name in recipe.export.targets:
        get(name)  # a misspelled name must not cost a calibration
    METHODS[recipe.calibrate.method]
    with _staged(Path(out)) as work:
        tell(f"model       {recipe.model.factory}")
        model = _build(recipe.model)
        train, test = (_open(recipe.data, split) for split in ("train", "test"))
        report = _go(model, recipe, train, test, work, tell, progress)
        tell("latency     onnxruntime, one thread, batch 1")
        one = _first_row(next(read(test)).inputs)
        latency = compare_latency({row.name: work / row.file for row in report.rows}, one)
        latency.to_json(work / "timings.json")
        _write_report(report, recipe, work, tell)
    return RunResult(Path(out), report, latency)


def _build(part: ModelPart) -> nn.Module:
    """The float model with its weights, in eval mode."""
    model = call_named(part.factory, what="model factory")
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model factory {part.factory!r} gave a {type(model).__name__}",
            fix="let it return a torch.nn.Module",
        )
    if part.weights is not None:
        tensors, _ = read_tensors(part.weights)
        digest = _sha256(Path(part.weights))
        if part.sha256 not in (None, digest):
            raise InputError(
                f"the weights are not the recipe's: their sha256 is {digest}",
                at=part.weights,
                fix="restore the file, or write its sha256 into the recipe",
            )
        load_tensors(model, tensors, at=part.weights)
    return model.eval()


def _open(part: DataPart, split: str) -> Data:
    wanted = part.model_dump(exclude={"source"})
    return open_source(part.source, Request(split=split, **wanted))


def _go(
    model: nn.Module,
    recipe: Recipe,
    train: Data,
    test: Data,
    work: Path,
    tell: Tell,
    progress: bool,
) -> RunReport:
    example = next(read(test)).inputs
    tell("fuse        BatchNorms into the layers before them")
    fused = fuse(model, example_inputs=example)
    float_model = copy.deepcopy(model)
    tell("insert      quantizers")
    names = recipe.export.targets
    insert(model, example, target=names[0], ignore=recipe.insert.ignore, only=recipe.insert.only)
    tell(f"calibrate   {recipe.calibrate.method}")
    chosen = recipe.calibrate
    ranges = calibrate(
        model, train, method=chosen.method, batches=chosen.batches, progress=progress
    )
    save_ranges(model, work / "ranges.safetensors")

    def check(path: Path, **references: nn.Module) -> ValidationReport:
        limit = recipe.validation.batches
        found = validate(path, test, reference=references, batches=limit, progress=progress)
        return replace(found, path=path.name)

    tell("export      float")
    float_path = work / f"model.{FLOAT}.onnx"
    opset = recipe.export.opset
    save_onnx(to_onnx(float_model, example, opset=opset), float_path, opset=opset)
    validation = {FLOAT: check(float_path, float=float_model)}
    inserted, exported = {}, {}
    for name in names:
        tell(f"export      {name}, and validate in onnxruntime")
        inserted[name] = retarget(model, name)
        path = work / f"model.{name}.onnx"
        exported[name] = replace(export_onnx(model, example, path, opset=opset), path=path.name)
        validation[name] = check(path, fake_quant=model, float=float_model)
    return RunReport(
        recipe=recipe.name,
        samples=validation[FLOAT].samples,
        rows=tuple(
            _summary(name, each, validation[FLOAT].bytes) for name, each in validation.items()
        ),
        fuse=fused,
        insert=inserted,
        calibrate=ranges,
        export=exported,
        validation=validation,
    )


def _summary(name: str, found: ValidationReport, float_bytes: int) -> SummaryRow:
    against = {row.reference: row for row in found.rows}
    twin = against["fake_quant"] if name != FLOAT else against[FLOAT]
    return SummaryRow(
        name=name,
        file=found.path,
        torch=twin.metric,
        onnxruntime=found.metric,
        agreement=twin.agreement,
        sqnr_db=None if name == FLOAT else against[FLOAT].sqnr_db,
        bytes=found.bytes,
        size_ratio=found.bytes / float_bytes,
        integer_layers=found.integer_layers,
        layers=found.layers,
    )


def _first_row(inputs: Any) -> Inputs:
    """The same nest of tensors with one row each."""
    if isinstance(inputs, dict):
        return {key: _first_row(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_first_row(value) for value in inputs)
    return inputs[:1]  # type: ignore[no-any-return]


def _write_report(report: RunReport, recipe: Recipe, work: Path, tell: Tell) -> None:
    report.to_json(work / "report.json")
    manifest = _manifest(recipe, work)
    (work / "manifest.json").write_text(to_json_text(manifest), encoding="utf-8")
    if importlib.util.find_spec("jinja2") is None:
        tell("report      report.json only: for report.html, pip install 'qdq[report]'")
        return
    from qdq.report.page import render

    tell("report      report.html")
    (work / "report.html").write_text(render(report, manifest), encoding="utf-8")


def _manifest(recipe: Recipe, work: Path) -> dict[str, object]:
    """What was run with what, and the hashes of what came out."""
    packages = ("torch", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy")
    versions = {"python": platform.python_version(), "qdq": version()}
    files = sorted(path for path in work.iterdir() if path.name != "timings.json")
    return {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "versions": versions | {name: installed(name) for name in packages},
        "machine": platform.machine(),
        "sha256": {path.name: _sha256(path) for path in files},
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` whose files move into it once the block has ended well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(20, "there is a file of that name")
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(
            f"cannot write the output folder: {error.strerror}",
            at=str(out),
            fix="pass --out with a folder that you may write to",
        ) from error
    try:
        yield work
        out.mkdir(exist_ok=True)
        for file in sorted(work.iterdir()):
            file.replace(out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
