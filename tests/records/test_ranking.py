"""The sensitivity report as text, JSON and CSV."""

import csv
import json
import math
from pathlib import Path

import pytest

from qdq.errors import InputError
from qdq.records.ranking import SensitivityReport, SensitivityRow

ROWS = (
    SensitivityRow("layer1.0.conv1", 0.125, 9.03, 0.5),
    SensitivityRow("fc, the last", 0.0, math.inf, 0.75),
)
RANKED = SensitivityReport("one_on", "top1", 0.75, 12, ROWS)
BARE = SensitivityReport("one_off", "", None, 3, (SensitivityRow("", -0.25, 6.0, None),))


@pytest.mark.parametrize("report", [RANKED, BARE])
def test_a_ranking_comes_back_equal_through_json(report: SensitivityReport, tmp_path: Path) -> None:
    report.to_json(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert read == report.to_dict()
    assert SensitivityReport.from_dict(read) == report


def test_rows_in_json_are_flat_and_in_order() -> None:
    assert RANKED.to_dict()["rows"] == [
        {"layer": "layer1.0.conv1", "score": 0.125, "sqnr_db": 9.03, "metric": 0.5},
        {"layer": "fc, the last", "score": 0.0, "sqnr_db": "inf", "metric": 0.75},
    ]


@pytest.mark.parametrize("report", [RANKED, BARE])
def test_csv_holds_every_row_under_a_header(report: SensitivityReport, tmp_path: Path) -> None:
    report.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["layer", "score", "sqnr_db", "metric"]
    assert [row[0] for row in rows] == [row.layer for row in report.rows]
    for text, row in zip(rows, report.rows, strict=True):
        assert (float(text[1]), float(text[2])) == (row.score, row.sqnr_db)
        assert text[3] == ("" if row.metric is None else str(row.metric))


def test_csv_takes_the_place_of_an_older_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("older, and longer than what comes now\n" * 50)
    BARE.to_csv(str(path))
    assert path.read_bytes() == b"layer,score,sqnr_db,metric\r\n,-0.25,6.0,\r\n"
    assert [each.name for each in tmp_path.iterdir()] == ["r.csv"]


def test_a_csv_that_fails_half_way_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    RANKED.to_csv(path)
    before = path.read_bytes()
    write = Path.write_text

    def full(self: Path, data: str, *args: object, **kwargs: object) -> int:
        write(self, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        BARE.to_csv(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["r.csv"]


def test_a_csv_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        RANKED.to_csv(tmp_path)
    assert str(caught.value) == (
        f"cannot write here: it is a folder\n  at:  {tmp_path}\n  fix: name a file in it"
    )
    path = tmp_path / "nowhere" / "r.csv"
    with pytest.raises(InputError) as caught:
        RANKED.to_csv(path)
    assert str(caught.value) == (
        f"cannot write here: No such file or directory\n  at:  {path}\n"
        "  fix: name a file in a folder that exists and that you may write to"
    )


def test_the_text_is_a_table_with_a_line_per_layer() -> None:
    assert str(RANKED).splitlines() == [
        "layer                score   SQNR dB      top1",
        "layer1.0.conv1       0.125       9.0    50.00%",
        "fc, the last             0       inf    75.00%",
    ]
    assert [line.rstrip() for line in str(BARE).splitlines()] == [
        "layer       score   SQNR dB",
        "            -0.25       6.0",
    ]


def test_the_text_of_no_rows_is_the_header() -> None:
    empty = SensitivityReport("one_on", "", None, 0, ())
    assert str(empty).split() == ["layer", "score", "SQNR", "dB"]
