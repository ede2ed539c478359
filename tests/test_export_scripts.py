"""The two workflows from float weights to a file, run as a user runs them."""

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(name: str, out: Path) -> str:
    """What the script prints."""
    pytest.importorskip("sklearn")
    command = [sys.executable, str(ROOT / f"scripts/{name}.py"), "--out", str(out)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_cpu_workflow_ends_with_an_accurate_file_in_integers(tmp_path: Path) -> None:
    printed = run("export_cpu", tmp_path)
    assert "for onnxruntime: 0 errors, 0 warnings, 0 notes" in printed
    assert "5 of 5 layers in integers" in printed
    accuracy = re.search(r"top1 ([\d.]+)%", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 98
    files = {path.stem: onnx.load(path) for path in tmp_path.glob("*.onnx")}
    assert set(files) == {"model", "opset18", "half", "codes"}
    assert files["opset18"].opset_import[0].version == 18
    kinds = {name: held.graph.input[0].type.tensor_type.elem_type for name, held in files.items()}
    assert kinds["half"] == onnx.TensorProto.FLOAT16
    assert kinds["codes"] == onnx.TensorProto.UINT8
    table = printed.rpartition("\n\n")[2].splitlines()[1:]
    assert [line.split()[0] for line in table] == ["model", "opset18", "half", "codes"]


def test_the_gpu_workflow_says_where_it_ran_and_what_it_wrote(tmp_path: Path) -> None:
    printed = run("export_gpu", tmp_path)
    assert re.search(r"1\. the float model, on (the CPU: no CUDA here|\w)", printed)
    assert "OTHER BYTES" not in printed
    assert "for tensorrt: 0 errors, 0 warnings, 0 notes" in printed
    assert "made for TensorRT" in printed
    sites = printed.rpartition("\n\n")[2].splitlines()[1:]
    assert {line.split()[1] for line in sites} == {"int8", "int32"}
    assert {path.name for path in tmp_path.glob("*.onnx")} >= {"model.onnx", "half.onnx"}
