"""The whole way of a recipe: fuse, insert, calibrate, analyze, export, validate, train, report."""

import copy
import importlib.util
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qdq.analysis.measuring import sensitivity
from qdq.calibration.choosing import calibrate
from qdq.calibration.ranges import histograms_of
from qdq.data import Inputs, read
from qdq.data.opening import open_source
from qdq.data.sources import Request
from qdq.errors import RecipeError
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.graph.files import save as save_onnx
from qdq.insertion.checkpoints import save_ranges
from qdq.insertion.fusing import fuse
from qdq.insertion.placing import retarget
from qdq.insertion.replacing import insert
from qdq.loading import build, first_row, split
from qdq.numerics.thresholds import METHODS
from qdq.recipe import Recipe
from qdq.records.base import to_json_text
from qdq.records.decisions import InsertReport
from qdq.records.export import ExportReport
from qdq.records.pictures import SitePicture
from qdq.records.run import RunReport, SummaryRow
from qdq.records.validation import LatencyReport, ValidationReport
from qdq.registry import choose_one_of
from qdq.repair.tiers import repairs_of
from qdq.report.pictures import picture
from qdq.staging import manifest_of, staged
from qdq.targets import get
from qdq.training.finetuning import finetune
from qdq.validation.comparing import validate
from qdq.validation.latency import compare_latency

FLOAT = "float"
SKIPPABLE = ("finetune", "latency", "report", "sensitivity")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What `run` gives back.

    Attributes:
        folder: the output folder.
        report: as in report.json.
        latency: as in timings.json; None where it was skipped.
    """

    folder: Path
    report: RunReport
    latency: LatencyReport | None


def run(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    skip: Collection[str] = (),
    tell: Tell = lambda _: None,
    progress: bool = True,
) -> RunResult:
    """Go the whole way and leave the output folder; on an error nothing is left.

    The folder holds model.float.onnx, model.<target>.onnx, report.json, report.html,
    ranges.safetensors, manifest.json and timings.json; with [finetune] in the recipe also
    model.<target>.qat.onnx and qat.safetensors. All but the timings are the same bytes for the
    same recipe on the same machine.

    Args:
        recipe: see `qdq.recipe.read_recipe`.
        out: the folder; it is made, and files of the same names in it are replaced.
        skip: stages to leave out: "sensitivity", "finetune", "latency", "report".
        tell: called with one line as each stage begins.
        progress: show bars on a terminal.

    Raises:
        QdqError: whatever is wrong with recipe, weights, data, model or folder.
    """
    _refuse_misspelled(recipe, skip)
    torch.manual_seed(recipe.seed)
    with staged(Path(out)) as work:
        job = _Job(recipe, work, frozenset(skip), tell, progress)
        job.prepare()
        job.quantize()
        job.analyze()
        job.export_float()
        job.export()
        job.train()
        report = job.report()
        latency = job.time(report)
        job.write(report)
    return RunResult(Path(out), report, latency)


def _refuse_misspelled(recipe: Recipe, skip: Collection[str]) -> None:
    """A wrong name must not cost a calibration."""
    for name in recipe.export.targets:
        get(name)
    if recipe.finetune is not None and recipe.finetune.target is not None:
        get(recipe.finetune.target)
    METHODS[recipe.calibrate.method]
    repairs_of(recipe.calibrate.tier, recipe.calibrate.repair)
    for stage in skip:
        if stage not in SKIPPABLE:
            raise RecipeError(
                f"no stage {stage!r} to skip", fix=choose_one_of(stage, list(SKIPPABLE))
            )


@dataclass
class _Job:
    """One run on its way: what the stages before have made."""

    recipe: Recipe
    work: Path
    skip: frozenset[str]
    tell: Tell
    progress: bool
    model: nn.Module = field(init=False)
    float_model: nn.Module = field(init=False)
    train_data: Iterable[object] = field(init=False)
    test_data: Iterable[object] = field(init=False)
    example: Inputs = field(init=False)
    stages: dict[str, Any] = field(default_factory=dict)
    inserted: dict[str, InsertReport] = field(default_factory=dict)
    exported: dict[str, ExportReport] = field(default_factory=dict)
    validated: dict[str, ValidationReport] = field(default_factory=dict)

    def prepare(self) -> None:
        """Model, weights and data; BatchNorms folded."""
        recipe = self.recipe
        self.tell(f"model        {recipe.model.factory}")
        self.model = build(recipe.model, recipe.data.path)
        wanted = recipe.data.model_dump(exclude={"source"})
        self.train_data, self.test_data = (
            open_source(recipe.data.source, Request(split=split, **wanted))
            for split in ("train", "test")
        )
        self.example = next(read(self.test_data)).inputs
        self.tell("fuse         BatchNorms into the layers before them")
        self.stages["fuse"] = fuse(self.model, example_inputs=self.example)
        self.float_model = copy.deepcopy(self.model)

    def quantize(self) -> None:
        """Quantizers and their ranges, for all targets at once."""
        recipe, part = self.recipe, self.recipe.calibrate
        self.tell("insert       quantizers")
        insert(
            self.model,
            self.example,
            target=recipe.export.targets[0],
            ignore=recipe.insert.ignore,
            only=recipe.insert.only,
        )
        mended = ", ".join(sum(repairs_of(part.tier, part.repair), ()))
        self.tell(f"calibrate    {part.method}" + (f", repairs: {mended}" if mended else ""))
        self.stages["calibrate"] = calibrate(
            self.model,
            self.train_data,
            method=part.method,
            tier=part.tier,
            repair=part.repair,
            batches=part.batches,
            progress=self.progress,
        )
        save_ranges(self.model, self.work / "ranges.safetensors")

    def analyze(self) -> None:
        """What each layer's quantization costs, on the first target."""
        part = self.recipe.sensitivity
        if part is None or "sensitivity" in self.skip:
            return
        self.tell(f"sensitivity  {part.mode}, layer by layer")
        found = sensitivity(
            self.model,
            self.train_data,
            mode=part.mode,
            batches=part.batches,
            progress=self.progress,
        )
        found.to_csv(self.work / "sensitivity.csv")
        self.stages["sensitivity"] = found

    def export_float(self) -> None:
        """The float model, to compare size, accuracy and latency with."""
        self.tell("export       float")
        path, opset = self.work / f"model.{FLOAT}.onnx", self.recipe.export.opset
        save_onnx(to_onnx(self.float_model, self.example, opset=opset), path, opset=opset)
        self._check(FLOAT, path, float=self.float_model)

    def export(self, suffix: str = "") -> None:
        """One file per target, run in onnxruntime."""
        for target in self.recipe.export.targets:
            name = target + suffix
            self.tell(f"export       {name}, and validate in onnxruntime")
            self.inserted[target] = retarget(self.model, target)
            path = self.work / f"model.{name}.onnx"
            done = export_onnx(self.model, self.example, path, opset=self.recipe.export.opset)
            self.exported[name] = replace(done, path=path.name)
            self._check(name, path, fake_quant=self.model, float=self.float_model)

    def _check(self, name: str, path: Path, **references: nn.Module) -> None:
        found = validate(
            path,
            self.test_data,
            reference=references,
            batches=self.recipe.validation.batches,
            progress=self.progress,
        )
        self.validated[name] = replace(found, path=path.name)

    def train(self) -> None:
        """Fine-tune for one target, and export for all again."""
        part = self.recipe.finetune
        if part is None or "finetune" in self.skip:
            return
        target = part.target or self.recipe.export.targets[0]
        self.tell(f"finetune     {part.epochs} epochs for {target}")
        retarget(self.model, target)
        learn, judge = split(self.train_data, part)
        self.stages["finetune"] = finetune(
            self.model,
            learn,
            judge,
            loss=part.loss,
            epochs=part.epochs,
            lr=part.lr,
            trainable=part.trainable,
            optimizer=part.optimizer,
            teacher=self.float_model if part.distill else None,
            seed=self.recipe.seed,
            progress=self.progress,
            checkpoint=self.work / "qat.safetensors",
        )
        self.export(".qat")

    def report(self) -> RunReport:
        """Every record so far."""
        float_bytes = self.validated[FLOAT].bytes
        rows = (_summary(name, each, float_bytes) for name, each in self.validated.items())
        return RunReport(
            recipe=self.recipe.name,
            samples=self.validated[FLOAT].samples,
            rows=tuple(rows),
            fuse=self.stages["fuse"],
            insert=self.inserted,
            calibrate=self.stages["calibrate"],
            export=self.exported,
            validation=self.validated,
            sensitivity=self.stages.get("sensitivity"),
            finetune=self.stages.get("finetune"),
            pictures=() if "report" in self.skip else self._pictures(),
        )

    def _pictures(self) -> tuple[SitePicture, ...]:
        """Per activation site what it saw, and where each method would clip it."""
        ranges, histograms = self.stages["calibrate"], histograms_of(self.model)
        return tuple(
            picture(row.site, histograms[row.site], row.method, held=(row.amin, row.amax))
            for row in ranges.rows
        )

    def time(self, report: RunReport) -> LatencyReport | None:
        """Every file once, in turn, on one thread and one row."""
        if "latency" in self.skip:
            return None
        self.tell("latency      onnxruntime, one thread, batch 1")
        files = {row.name: self.work / row.file for row in report.rows}
        found = compare_latency(files, first_row(self.example), progress=self.progress)
        found.to_json(self.work / "timings.json")
        return found

    def write(self, report: RunReport) -> None:
        """report.json, manifest.json and the page."""
        report.to_json(self.work / "report.json")
        manifest = manifest_of(self.recipe, self.work)
        (self.work / "manifest.json").write_text(to_json_text(manifest), encoding="utf-8")
        if "report" in self.skip:
            return
        if importlib.util.find_spec("jinja2") is None:
            self.tell("report       report.json only: for report.html, pip install 'qdq[report]'")
            return
        from qdq.report.page import render

        self.tell("report       report.html")
        (self.work / "report.html").write_text(render(report, manifest), encoding="utf-8")


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
