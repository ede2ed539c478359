"""The main job on real images with real weights, with the figures it promises."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra 'demo'")

from qdq.data.sources import digits
from qdq.errors import InputError
from qdq.graph.files import metadata
from qdq.pipeline import RunResult, run
from qdq.recipe import read_recipe

TARGETS = ("tensorrt", "onnxruntime")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(read_recipe("lenet_digits"), tmp_path_factory.mktemp("runs") / "a", progress=False)


def rows(result: RunResult) -> dict[str, object]:
    return {row.name: row for row in result.report.rows}


def accuracy_and_classes(path: Path) -> tuple[float, np.ndarray]:
    """In onnxruntime, written apart from qdq.validation."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    right, classes = 0, []
    for images, labels in digits("test", 100):
        guess = session.run(None, {"input": images.numpy()})[0].argmax(1)
        right += int((guess == labels.numpy()).sum())
        classes.append(guess)
    return right / 599, np.concatenate(classes)


@pytest.mark.parametrize("target", TARGETS)
def test_int8_stays_within_half_a_point_of_float(result: RunResult, target: str) -> None:
    float_accuracy, _ = accuracy_and_classes(result.folder / "model.float.onnx")
    accuracy, _ = accuracy_and_classes(result.folder / f"model.{target}.onnx")
    assert float_accuracy > 0.98
    assert abs(accuracy - float_accuracy) <= 0.005
    assert accuracy == pytest.approx(rows(result)[target].onnxruntime)


@pytest.mark.parametrize("target", TARGETS)
def test_simulation_and_onnxruntime_agree(result: RunResult, target: str) -> None:
    row = rows(result)[target]
    assert row.agreement >= 0.998
    assert row.sqnr_db > 30


def test_every_layer_of_the_onnxruntime_form_runs_in_integers(result: RunResult) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(result.folder / "optimized.onnx")
    options.log_severity_level = 3
    path = result.folder / "model.onnxruntime.onnx"
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert ops.count("QLinearConv") == 3
    assert ops.count("QGemm") == 2
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"} & set(ops)
    row = rows(result)["onnxruntime"]
    assert (row.integer_layers, row.layers) == (5, 5)


@pytest.mark.parametrize("target", TARGETS)
def test_the_int8_file_is_a_third_of_the_float_file(result: RunResult, target: str) -> None:
    float_size = (result.folder / "model.float.onnx").stat().st_size
    size = (result.folder / f"model.{target}.onnx").stat().st_size
    assert size / float_size <= 0.33
    assert rows(result)[target].size_ratio == size / float_size


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_is_true_opset_13_and_names_its_target(result: RunResult, target: str) -> None:
    model = onnx.load(result.folder / f"model.{target}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    assert metadata(model)["qdq.target"] == target
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_the_same_recipe_gives_the_same_bytes(result: RunResult, tmp_path: Path) -> None:
    run(read_recipe("lenet_digits"), tmp_path / "b", progress=False)
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == [
        "manifest.json",
        "model.float.onnx",
        "model.onnxruntime.onnx",
        "model.tensorrt.onnx",
        "ranges.safetensors",
        "report.html",
        "report.json",
        "sensitivity.csv",
        "timings.json",
    ]
    for name in names:
        if name != "timings.json":
            assert (tmp_path / "b" / name).read_bytes() == (result.folder / name).read_bytes(), name


def test_the_manifest_holds_the_hashes_and_versions(result: RunResult) -> None:
    from hashlib import sha256

    manifest = json.loads((result.folder / "manifest.json").read_text("utf-8"))
    for name, digest in manifest["sha256"].items():
        assert sha256((result.folder / name).read_bytes()).hexdigest() == digest
    assert manifest["versions"]["onnxruntime"] == onnxruntime.__version__
    assert manifest["recipe"]["name"] == "lenet_digits"


def test_each_stage_is_told_in_order(tmp_path: Path) -> None:
    told: list[str] = []
    run(read_recipe("lenet_digits"), tmp_path / "c", tell=told.append, progress=False)
    stages = [line.split()[0] for line in told]
    assert stages == [
        "model",
        "fuse",
        "insert",
        "calibrate",
        "sensitivity",
        "export",
        "export",
        "export",
        "latency",
        "report",
    ]


def test_files_of_the_users_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("mine", encoding="utf-8")
    run(read_recipe("lenet_digits"), tmp_path / "d", progress=False)
    assert (tmp_path / "d" / "notes.txt").read_text("utf-8") == "mine"


def test_without_the_report_extra_the_rest_is_written_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told: list[str] = []
    run(read_recipe("lenet_digits"), tmp_path / "e", tell=told.append, progress=False)
    assert not (tmp_path / "e" / "report.html").exists()
    assert (tmp_path / "e" / "report.json").is_file()
    assert "pip install 'qdq[report]'" in told[-1]


def test_a_model_factory_must_give_a_module(tmp_path: Path) -> None:
    recipe = read_recipe("lenet_digits").replaced({"model.factory": "builtins:dict"})
    with pytest.raises(InputError, match="gave a dict"):
        run(recipe, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
