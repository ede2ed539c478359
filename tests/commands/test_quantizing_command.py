"""`qdq quantize`: a file, a table, exit codes, and nothing written on an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import pytest

from qdq.cli import main
from qdq.records.quantizing import QuantizationReport
from tests.graph.quantizing.float_nets import images, residual_net, saved

Call: TypeAlias = Callable[..., tuple[int, str, str]]
START = ("float.onnx", "q.onnx", "--data", "rows.npy", "--target", "onnxruntime")


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run it in a folder with a float file and its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    saved(residual_net(), tmp_path)
    np.save("rows.npy", images(8))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["quantize", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def names() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()} - {"__pycache__"}


def test_it_writes_the_file_and_shows_every_node(call: Call) -> None:
    code, out, err = call(*START, "--json", "report.json")
    assert (code, err) == (0, "")
    assert names() == {"float.onnx", "rows.npy", "q.onnx", "report.json"}
    kept = json.loads(Path("report.json").read_text("utf-8"))
    assert kept.pop("counts") == {"integer": 6, "float": 0}
    report = QuantizationReport.from_dict(kept)
    for row in report.rows:
        assert row.name in out
    assert "6 of 6 nodes that compute are between Q/DQ pairs, 100.0% of" in out
    assert "BatchNormalizations folded: 3" in out


def test_target_method_batches_and_ignored_nodes_are_as_asked(call: Call) -> None:
    options = ("--batch-size", "2", "--batches", "3", "--method", "max", "--ignore", "Gemm")
    code, _, _ = call(*START[:-1], "tensorrt", *options, "--json", "report.json")
    kept = json.loads(Path("report.json").read_text("utf-8"))
    assert (code, kept["target"], kept["method"], kept["batches"]) == (0, "tensorrt", "max", 3)
    assert [row["why"] for row in kept["rows"] if row["op"] == "Gemm"] == ["ignored by 'Gemm'"]


def test_a_function_of_the_users_gives_batches_with_or_without_labels(call: Call) -> None:
    Path("my_rows.py").write_text(
        "import numpy as np\n"
        "def batches(split, batch_size):\n"
        "    assert split == 'train'\n"
        "    x = np.ones((batch_size, 3, 8, 8), np.float32)\n"
        "    return [(x, np.zeros(batch_size)), {'x': x * 2}, x * 3]\n"
    )
    arguments = [*START[:3], "my_rows:batches", *START[4:], "--batch-size", "4"]
    code, out, _ = call(*arguments)
    assert (code, "on 3 batches" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.onnx", *START[1:]), "GraphError: there is no such ONNX file"),
        ((*START[:3], "none.npy", *START[4:]), "InputError: there is no .npy and no .npz here"),
        ((*START, "--batch-size", "0"), "InputError: batches of 0 rows"),
        ((*START, "--ignore", "nothing"), "PolicyError: ignore pattern 'nothing' fits nothing"),
        ((*START[:-1], "cuda"), "RegistryError: no target 'cuda'"),
        ((*START, "--method", "least"), "RegistryError: no calibration method 'least'"),
        (("float.onnx", "none/q.onnx", *START[2:]), "InputError: cannot write here"),
    ],
)
def test_an_error_is_one_text_and_nothing_is_written(
    call: Call, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = call(*arguments, "--json", "report.json")
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert names() == {"float.onnx", "rows.npy"}


def test_the_source_may_be_replaced(call: Call) -> None:
    code, _, _ = call("float.onnx", "float.onnx", *START[2:])
    ops = {node.op_type for node in onnx.load("float.onnx").graph.node}
    assert (code, "QuantizeLinear" in ops) == (0, True)
