"""What a lint report says and how it is kept."""

from pathlib import Path

from qdq.records.findings import Finding, LintReport

ROWS = (
    Finding("T01", "error", "a/QuantizeLinear", "zp", "zero point 3", "calibrate symmetrically"),
    Finding("T14", "note", "b", "t", "a second pair behind MaxPool", "remove it"),
)


def test_a_report_counts_and_lists_its_findings() -> None:
    report = LintReport("m.onnx", "tensorrt", 2, ROWS)
    assert report.counts == {"error": 1, "warning": 0, "note": 1}
    assert str(report) == (
        "m.onnx for tensorrt: 1 error, 0 warnings, 1 note\n"
        "T01 error at a/QuantizeLinear: zero point 3\n  fix: calibrate symmetrically\n"
        "T14 note at b: a second pair behind MaxPool\n  fix: remove it"
    )


def test_a_report_of_a_mended_file_says_how_much_and_where() -> None:
    report = LintReport("m.onnx", "tensorrt", 2, (), ROWS, "mended.onnx")
    assert str(report) == (
        "m.onnx for tensorrt: 0 errors, 0 warnings, 0 notes; 2 mended in mended.onnx"
    )


def test_a_report_of_a_float_model_says_so() -> None:
    assert str(LintReport("m.onnx", "tensorrt", 0, ())) == (
        "m.onnx for tensorrt: 0 errors, 0 warnings, 0 notes, for there is no Q or DQ in it"
    )


def test_a_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report = LintReport("m.onnx", "tensorrt", 2, ROWS)
    values = report.to_dict()
    assert values.pop("counts") == {"error": 1, "warning": 0, "note": 1}
    assert LintReport.from_dict(values) == report
    assert values["rows"][0]["rule"] == "T01"
