"""Small and large reports for the tests of the page."""

from dataclasses import replace
from functools import cache

import numpy as np

from qdq.numerics.histogram import from_values
from qdq.records.calibration import CalibrationReport, RangeRow
from qdq.records.decisions import Decision, FuseReport, InsertReport
from qdq.records.export import ExportReport, SiteRow
from qdq.records.ranking import SensitivityReport, SensitivityRow
from qdq.records.run import RunReport, SummaryRow
from qdq.records.training import EpochRow, FinetuneReport
from qdq.records.validation import ComparisonRow, ValidationReport
from qdq.report.pictures import SitePicture, picture


def range_of(site: str) -> RangeRow:
    """A row of the calibration."""
    return RangeRow(site, -1.0, 2.0, -1.5, 2.0, 77, "mse", f"mse clips 1 % of {site}")


def bare(name: str = "net") -> RunReport:
    """What a run leaves at least; `name` stands wherever a name from outside can."""
    return RunReport(
        recipe=name,
        samples=9,
        rows=(
            SummaryRow("float", "model.float.onnx", 0.9, 0.9, 1.0, None, 1000, 1.0, 0, 2),
            SummaryRow(name, "model.x.onnx", 0.8, None, 0.5, 31.25, 300, 0.3, 2, 2),
        ),
        fuse=FuseReport(()),
        insert={name: InsertReport(name, (Decision(name, "quantize", name),))},
        calibrate=CalibrationReport(name, 3, 9, (range_of(name),)),
        export={},
        validation={},
    )


def full(name: str = "net", sites: int = 2) -> RunReport:
    """Every section filled; `name` stands wherever a name from outside can."""
    names = [f"{name}.{index}" for index in range(sites)]
    compared = (ComparisonRow(name, 0.8, 0.5, 31.25, 0.125),)
    codes = tuple(SiteRow(each, each, name, 0.5, 0.75, 3, 4) for each in names)
    ranking = tuple(
        SensitivityRow(each, 0.5 - index / sites, 12.34, 0.625) for index, each in enumerate(names)
    )
    start = bare(name)
    return RunReport(
        recipe=name,
        samples=9,
        rows=start.rows,
        fuse=FuseReport((Decision(name, "fold", name),)),
        insert={name: InsertReport(name, tuple(Decision(e, "skip", name) for e in names))},
        calibrate=CalibrationReport(name, 3, 9, tuple(range_of(each) for each in names)),
        export={name: ExportReport(name, name, 13, 300, name, codes)},
        validation={
            name: ValidationReport(name, name, 9, name, 0.8, 300, {name: 7}, 1, 2, name, compared)
        },
        sensitivity=SensitivityReport("one_on", name, 0.75, 9, ranking),
        finetune=FinetuneReport(
            name,
            name,
            name,
            0.7,
            2,
            99,
            5,
            (EpochRow(1, 2.5, 0.01, 0.6), EpochRow(2, 1.5, 0.01, 0.8)),
        ),
        pictures=tuple(drawn(each, name) for each in names),
    )


def drawn(site: str, method: str = "mse") -> SitePicture:
    """A picture of 5,000 normal values whose chosen method is called `method`."""
    found = _normal()
    return replace(
        found,
        site=site,
        thresholds={**found.thresholds, method: found.thresholds["mse"]},
        clipped={**found.clipped, method: found.clipped["mse"]},
        chosen=method,
    )


@cache
def _normal() -> SitePicture:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    return picture("normal", from_values(values), "mse")
