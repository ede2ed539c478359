import re

import pytest

pytest.importorskip("jinja2", reason="the page needs the extra 'report'")

from qdq.records.calibration import CalibrationReport, RangeRow
from qdq.records.decisions import Decision, FuseReport, InsertReport
from qdq.records.run import RunReport, SummaryRow
from qdq.records.validation import LatencyReport, LatencyRow
from qdq.report.page import render
from qdq.report.table import show

HOSTILE = "<script>alert('x')</script>"


def report(name: str = "net") -> RunReport:
    return RunReport(
        recipe=name,
        samples=9,
        rows=(
            SummaryRow("float", "model.float.onnx", 0.9, 0.9, 1.0, None, 1000, 1.0, 0, 2),
            SummaryRow(name, "model.x.onnx", 0.8, None, 0.5, 31.25, 300, 0.3, 2, 2),
        ),
        fuse=FuseReport(()),
        insert={name: InsertReport(name, (Decision(name, "quantize", name),))},
        calibrate=CalibrationReport("max", 3, (RangeRow(name, -1.0, 2.0, -1.5, 2.0, 77),)),
        export={},
        validation={},
    )


def test_the_page_shows_the_figures_and_needs_nothing_else() -> None:
    page = render(report(), {"versions": {"torch": "2"}})
    for shown in ("90.00%", "80.00%", "31.25", "0.300", "2 of 2", "77", "torch"):
        assert shown in page
    assert not re.search(r"(?:src|href)\s*=|https?://|@import", page)


def test_everything_from_outside_is_escaped() -> None:
    page = render(report(HOSTILE), {HOSTILE: HOSTILE})
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page


def test_equal_records_give_equal_bytes() -> None:
    assert render(report(), {"a": 1}) == render(report(), {"a": 1})


def test_the_terminal_table_fits_80_columns_and_says_what_is_slower(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = (
        LatencyRow("float", 1.0, 0.9, 1.1, 1.0),
        LatencyRow("onnxruntime", 2.0, 1.9, 2.1, 2.0),
    )
    from pathlib import Path

    show(report("onnxruntime"), LatencyReport(1, 1, 10, rows), Path("runs/[x]"))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for shown in ("onnxruntime", "80.00%", "2000", "2.00", "2/2", "runs/[x]"):
        assert shown in printed
    assert "slower than float on this machine: onnxruntime" in printed
