"""`qdq explain` and `qdq diff` as a user calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from qdq.commands.difference import diff
from qdq.commands.explanation import explain
from qdq.errors import GraphError, InputError
from qdq.records.difference import DifferenceReport
from qdq.records.engine import EngineReport
from qdq.records.explanation import ExplanationReport
from tests.graph.explained_files import file_of
from tests.graph.graph_sketch import Sketch

APP = typer.Typer()
APP.command()(explain)
APP.command()(diff)


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(APP, [str(each) for each in arguments])


def net(folder: Path, *, kind: type = np.uint8, name: str = "m.onnx") -> Path:
    """A layer with a Relu; only uint8 codes let it run in integers."""
    draw = Sketch("batch", 8, 6, 6)
    layer = draw.integer_conv(draw.pair(draw.x, "in"), 8, 8, 3, 3)
    return file_of(draw.done(draw.pair(draw.node("Relu", layer), "out", kind=kind)), folder, name)


def test_explain_shows_what_runs_how_and_the_sum(tmp_path: Path) -> None:
    shown = run("explain", net(tmp_path))
    assert shown.exit_code == 0
    assert "Conv_0" in shown.stdout
    assert "QLinearConv" in shown.stdout
    words = " ".join(shown.stdout.split())
    assert "2 of 2 nodes that compute run in integers, and 100.0% of 9,216 MACs" in words
    assert "conv_0.weight/DequantizeLinear" not in shown.stdout
    assert "conv_0.weight/DequantizeLinear" in run("explain", net(tmp_path), "--all").stdout


def test_explain_compares_with_an_engine_and_keeps_all_of_it(tmp_path: Path) -> None:
    tensors = [{"Name": "in.codes", "Format/Datatype": "Row major Int8 format"}]
    layer = {"Name": "Conv_0 + Relu_0", "LayerType": "CaskConvolution", "Inputs": tensors}
    layers, out = tmp_path / "layers.json", tmp_path / "e.json"
    layers.write_text(json.dumps({"Layers": [layer | {"Outputs": tensors}]}))
    path = net(tmp_path, kind=np.int8)
    shown = run("explain", path, "--target", "tensorrt", "--engine", layers, "--json", out)
    assert shown.exit_code == 0
    report = EngineReport.from_dict(json.loads(out.read_text("utf-8")))
    assert shown.stdout.endswith(f"{report}\n")
    assert [each.built for each in report.rows] == ["integer", "integer"]


@pytest.mark.parametrize("options", [("--build", "--engine", "e.json"), ("--build", "--runs", "3")])
def test_explain_takes_one_engine_and_times_none(tmp_path: Path, options: tuple[str, ...]) -> None:
    failed = run("explain", net(tmp_path), "--target", "tensorrt", *options)
    assert isinstance(failed.exception, InputError)
    assert str(failed.exception) == (
        "an engine is compared, built here or from a file, and not timed\n"
        "  fix: pass --build or --engine FILE, and no --runs"
    )


def test_explain_names_the_rule_of_a_float_layer(tmp_path: Path) -> None:
    shown = run("explain", net(tmp_path, kind=np.int8))
    line = next(line for line in shown.stdout.splitlines() if line.split()[:1] == ["Conv_0"])
    assert "float" in line
    assert "O04" in line


def test_explain_times_kernels_of_a_given_batch_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    shown = run("explain", net(tmp_path), "--runs", "2", "--size", "batch=3", "--json", out)
    assert shown.exit_code == 0
    assert "does the work of" in shown.stdout
    assert "(added for in/QuantizeLinear)" in shown.stdout
    report = ExplanationReport.from_dict(json.loads(out.read_text("utf-8")))
    assert report.macs == 3 * 9216
    assert None not in {each.microseconds for each in report.kernels}


def test_explain_predicts_for_tensorrt(tmp_path: Path) -> None:
    shown = run("explain", net(tmp_path, kind=np.int8), "--target", "tensorrt")
    assert shown.exit_code == 0
    assert "Conv+Relu" in shown.stdout
    assert "on tensorrt, by its rules" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("size", ["batch", "batch=", "=3", "batch=0", "batch=x"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    error = run("explain", net(tmp_path), "--size", size).exception
    assert isinstance(error, InputError)
    assert str(error) == (
        f"--size {size!r} is no dimension and its length\n  fix: write --size batch=8"
    )


def test_on_an_error_no_json_is_written(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"hello")
    out = tmp_path / "out.json"
    for command in (["explain"], ["diff", tmp_path / "m.onnx"]):
        shown = run(*command, tmp_path / "m.onnx", "--json", out)
        assert isinstance(shown.exception, GraphError)
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_diff_says_so_and_exits_with_0_where_files_are_the_same(tmp_path: Path) -> None:
    shown = run("diff", net(tmp_path), net(tmp_path, name="b.onnx"))
    assert shown.exit_code == 0
    assert "are the same" in shown.stdout


def test_diff_lists_differences_and_exits_with_1(tmp_path: Path) -> None:
    out = tmp_path / "d.json"
    other = net(tmp_path, kind=np.int8, name="b.onnx")
    shown = run("diff", net(tmp_path), other, "--json", out)
    assert shown.exit_code == 1
    assert "uint8 () -> int8 ()" in shown.stdout
    report = DifferenceReport.from_dict(json.loads(out.read_text("utf-8")))
    assert [(row.name, row.change) for row in report.rows] == [("out.zero_point", "changed")]
