"""`qdq retarget`: what it writes and shows, exit codes, and nothing written on an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import pytest

from qdq.cli import main
from qdq.graph.files import metadata
from tests.graph.retargeting.rewritten_files import exported, fresh

Call: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run it in a folder with a file for TensorRT and rows of data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("trt.onnx").write_bytes(exported("identity_skip", "tensorrt").read_bytes())
    np.save("rows.npy", fresh("identity_skip").numpy())

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["retarget", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def files() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()} - {"trt.onnx", "rows.npy"}


def test_it_writes_the_file_and_the_certificate(call: Call) -> None:
    arguments = ("--target", "onnxruntime", "--data", "rows.npy", "--json", "certificate.json")
    code, out, _ = call("trt.onnx", "cpu.onnx", *arguments)
    assert code == 0
    assert files() == {"cpu.onnx", "certificate.json"}
    assert metadata(onnx.load("cpu.onnx"))["qdq.target"] == "onnxruntime"
    told = json.loads(Path("certificate.json").read_text("utf-8"))
    assert told["evidence"] == "4 samples of the data"
    assert {row["fate"] for row in told["rows"]} == {"integer"}
    assert "each operator alone: at most" in out
    assert "measured" in out


def test_without_data_it_names_what_stays_float(call: Call) -> None:
    code, out, _ = call("trt.onnx", "cpu.onnx", "--target", "onnxruntime")
    assert code == 0
    assert "not kept: range at" in out
    assert "random inputs, seeded" in out


def test_match_and_variants_of_a_target_are_options(call: Call) -> None:
    code, _, _ = call("trt.onnx", "m.onnx", "--target", "tensorrt:8", "--match")
    assert code == 0
    kinds = {each.data_type for each in onnx.load("m.onnx").graph.initializer if len(each.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.onnx", "m.onnx", "--target", "tensorrt"), "there is no such ONNX file"),
        (("trt.onnx", "m.onnx", "--target", "trt"), "no target 'trt'"),
        (("trt.onnx", "no/m.onnx", "--target", "tensorrt"), "cannot write here"),
        (("trt.onnx", "m.onnx", "--target", "tensorrt", "--json", "no/m.json"), "cannot write"),
        (("trt.onnx", "m.onnx", "--target", "tensorrt", "--method", "mean"), "no calibration"),
        (
            ("trt.onnx", "m.onnx", "--target", "tensorrt", "--data", "rows.npy", "--batch-size=0"),
            "batches of 0 rows",
        ),
    ],
)
def test_on_an_error_nothing_is_written(call: Call, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert said in err
    assert files() == set()


def test_help_teaches(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert "--match" in out
    assert "The certificate" in out
