"""`qdq bench` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from qdq.commands.benching import bench
from qdq.errors import InputError
from qdq.graph.benching import fitting
from qdq.graph.benching.chains import Chain
from qdq.graph.benching.samples import samples
from qdq.records.benching import BenchReport
from qdq.targets.costs.tables import cost_table

APP = typer.Typer()
APP.command()(bench)


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(APP, [str(each) for each in arguments])


def file(path: Path, width: int) -> Path:
    path.write_bytes(Chain(1, width).gemm(width).sample(path.name).content)
    return path


def test_files_are_shown_side_by_side_and_written_as_json(tmp_path: Path) -> None:
    small, large = file(tmp_path / "small.onnx", 8), file(tmp_path / "large.onnx", 256)
    out = tmp_path / "t.json"
    shown = run(small, large, "--rounds", "3", "--threads", "1", "--threads", "2", "--json", out)
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[:4] for line in lines if line[:1] == ["large.onnx"]] == [
        ["large.onnx", "CPU", "1", "1"],
        ["large.onnx", "CPU", "2", "1"],
    ]
    report = BenchReport.from_dict(json.loads(out.read_text("utf-8")))
    assert [row.name for row in report.rows] == ["small.onnx", "large.onnx"] * 2
    assert f"{report.rows[1].ratio:.3f}" in shown.stdout


def test_fit_writes_a_table_and_shows_what_it_predicts_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = list(samples())[::12]
    monkeypatch.setattr(fitting, "samples", lambda: few)
    shown = run("--fit", tmp_path / "costs.json", "--rounds", "1")
    assert shown.exit_code == 0
    table = cost_table(str(tmp_path / "costs.json"))
    words = " ".join(shown.stdout.split())
    assert f"{len(few)} nets" in words
    assert sum(each.name in words for each in few) == 10
    assert np.isfinite([p for prices in table.ns.values() for p in prices.values()]).all()


@pytest.mark.parametrize("arguments", [(), ("m.onnx", "--fit", "costs.json")])
def test_files_and_a_fit_are_asked_for_apart(arguments: tuple[str, ...]) -> None:
    error = run(*arguments).exception
    assert isinstance(error, InputError)
    assert str(error) == (
        "name files to time, or a file for --fit, and not both\n"
        "  fix: qdq bench a.onnx b.onnx, or qdq bench --fit costs.json"
    )


@pytest.mark.parametrize("option", [("--json", "t.json"), ("--threads", "2"), ("--clock", "wall")])
def test_a_fit_refuses_what_it_would_ignore(tmp_path: Path, option: tuple[str, str]) -> None:
    error = run("--fit", tmp_path / "costs.json", *option).exception
    assert isinstance(error, InputError)
    assert str(error) == (
        "--fit takes --rounds and nothing else\n  fix: qdq bench --fit costs.json"
    )


def test_numbers_stay_on_one_line_of_a_narrow_terminal(tmp_path: Path) -> None:
    path = file(tmp_path / "a_file_with_a_long_name.onnx", 8)
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(APP, [str(path), "--rounds", "2"])
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [len(line) for line in lines if "CPU" in line] == [9]


def test_nothing_is_written_after_an_error(tmp_path: Path) -> None:
    small = file(tmp_path / "small.onnx", 8)
    shown = run(small, tmp_path / "none.onnx", "--json", tmp_path / "t.json")
    assert "no such ONNX file" in str(shown.exception)
    assert [each.name for each in tmp_path.iterdir()] == ["small.onnx"]


def test_an_output_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    shown = run("--fit", tmp_path / "no" / "costs.json")
    assert isinstance(shown.exception, InputError)
    assert "cannot write here" in str(shown.exception)


@pytest.mark.parametrize("text", ["height", "=8", "height=0", "height=x"])
def test_a_size_is_a_name_and_a_length(tmp_path: Path, text: str) -> None:
    shown = run(file(tmp_path / "m.onnx", 8), "--size", text)
    assert str(shown.exception) == (
        f"--size {text!r} is no dimension and its length\n  fix: write --size batch=8"
    )
