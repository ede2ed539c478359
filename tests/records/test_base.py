"""Records: JSON in and out, files written whole or not at all, and what each report says."""

import json
import math
import os
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import pytest

from qdq.errors import InputError
from qdq.records.base import Record, plain, to_json_text, written_whole
from qdq.records.calibration import CalibrationReport, RangeRow
from qdq.records.decisions import Decision, FuseReport, InsertReport
from qdq.records.export import ExportReport, SiteRow

ROWS = (
    RangeRow("conv1.input", 0.0, 1.5, 0.0, 2.5, 10, "mse", "mse clips 1 %"),
    RangeRow("fc.input", -1.0, 1.0, -0.5, 1.0, 20, "mse", "mse clips nothing"),
)
CALIBRATION = CalibrationReport("mse", 4, 256, ROWS)
INSERTED = InsertReport(
    "tensorrt",
    (
        Decision("conv1.input", "quantize", "T09"),
        Decision("conv1.output", "off", "T09"),
        Decision("fc", "skip", "ignored by 'fc'"),
    ),
)
FUSED = FuseReport((Decision("bn1", "fold", "follows conv1"), Decision("bn2", "skip", "no conv")))
EXPORTED = ExportReport(
    "m.onnx", "tensorrt", 13, 12345, "ab", (SiteRow("a", "t", "int8", 0.1, 0.2, 0, 3),)
)


@dataclass(frozen=True)
class Small(Record):
    value: float
    names: tuple[str, ...] = ()


@pytest.mark.parametrize("record", [CALIBRATION, INSERTED, FUSED, EXPORTED], ids=type)
def test_every_report_comes_back_equal_through_json(record: Record, tmp_path: Path) -> None:
    record.to_json(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert read == record.to_dict()
    assert type(record).from_dict(read) == record


@pytest.mark.parametrize("record", [CALIBRATION, INSERTED, FUSED, EXPORTED], ids=type)
def test_rows_are_a_list_of_flat_dicts(record: Record) -> None:
    rows = record.to_dict()["rows"]
    assert isinstance(rows, list)
    for row in rows:
        assert isinstance(row, dict)
        assert not any(isinstance(value, (list, dict, tuple)) for value in row.values())


def test_a_row_holds_its_fields_by_name() -> None:
    assert CALIBRATION.to_dict()["rows"][0] == {
        "site": "conv1.input",
        "amin": 0.0,
        "amax": 1.5,
        "seen_min": 0.0,
        "seen_max": 2.5,
        "values": 10,
        "method": "mse",
        "why": "mse clips 1 %",
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_becomes_text_and_comes_back(value: float, tmp_path: Path) -> None:
    record = Small(value)
    record.to_json(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert read["value"] == str(value)
    assert Small.from_dict(read) == record


def test_nan_becomes_text_and_comes_back() -> None:
    assert Small(math.nan).to_dict()["value"] == "nan"
    assert math.isnan(Small.from_dict({"value": "nan", "names": []}).value)


def test_the_same_value_gives_the_same_text_whatever_the_order_of_its_keys() -> None:
    text = to_json_text({"b": 1, "a": [1, 2]})
    assert text == to_json_text({"a": [1, 2], "b": 1})
    assert text == '{\n  "a": [\n    1,\n    2\n  ],\n  "b": 1\n}\n'


def test_nested_values_become_plain() -> None:
    row = SiteRow("a", "t", "int8", 0.1, 0.2, 0, 3)
    nested = plain({1: (row, [math.inf]), "s": Small(1.0, ("x",)), "none": None, "yes": True})
    assert nested == {
        "1": [
            {
                "site": "a",
                "tensor": "t",
                "codes": "int8",
                "scale": 0.1,
                "scale_max": 0.2,
                "zero_point": 0,
                "channels": 3,
            },
            ["inf"],
        ],
        "s": {"value": 1.0, "names": ["x"]},
        "none": None,
        "yes": True,
    }


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"method": "mse", "batches": "many", "rows": []}, "batches: Input should be a valid int"),
        ({"method": "mse", "batches": 1, "samples": 2}, "rows: Field required"),
        (
            {"method": "mse", "batches": 1, "samples": 2, "rows": [{"site": 1}]},
            "rows.0.site: Input should be",
        ),
    ],
)
def test_what_is_no_such_record_is_refused_with_the_place(
    values: dict[str, object], where: str
) -> None:
    with pytest.raises(InputError) as caught:
        CalibrationReport.from_dict(values)
    assert str(caught.value).startswith(f"this is no CalibrationReport: {where}")
    assert str(caught.value).endswith("\n  fix: pass what to_dict() or to_json() wrote")


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CALIBRATION.method = "max"  # type: ignore[misc]


def test_calibration_says_how_many_sites_clip() -> None:
    assert str(CALIBRATION) == "2 sites, ranges by 'mse' from 4 batches; 1 sites clip"


def test_insertion_counts_its_actions_and_names_what_stays_float() -> None:
    assert INSERTED.to_dict()["counts"] == {"quantize": 1, "off": 1, "skip": 1}
    assert [row.name for row in INSERTED.select("off")] == ["conv1.output"]
    assert str(INSERTED) == (
        "tensorrt: 1 sites quantize, 1 are kept for other targets\n"
        "  left float: fc: ignored by 'fc'"
    )


def test_fusing_names_what_it_folded_and_why_it_left_the_rest() -> None:
    assert FUSED.folded == ("bn1",)
    assert str(FUSED) == "folded 1 of 2 BatchNorms\n  bn2: no conv"


def test_export_says_file_target_opset_sites_and_size() -> None:
    assert str(EXPORTED) == "m.onnx: tensorrt, opset 13, 1 sites, 12,345 bytes"


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as temporary:
        temporary.write_text(f"half {1 // 0}")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_block_that_ends_well_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_file_gets_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Small(1.0).to_json(tmp_path / "r.json")
        assert os.umask(0o027) == 0o027  # put back
    finally:
        os.umask(before)
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_does_not_exist_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "r.json"
    with pytest.raises(InputError) as caught:
        Small(1.0).to_json(path)
    assert str(caught.value) == (
        f"cannot write here: No such file or directory\n  at:  {path}\n"
        "  fix: name a file in a folder that exists and that you may write to"
    )


def test_a_folder_in_place_of_a_file_is_refused_and_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    with pytest.raises(InputError) as caught:
        Small(1.0).to_json(path)
    assert str(caught.value) == (
        f"cannot write here: it is a folder\n  at:  {path}\n  fix: name a file in it"
    )
    assert os.listdir(path) == []
