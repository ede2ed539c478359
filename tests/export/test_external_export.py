"""export_onnx with its weights beside the file, alone and with every other form."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from export_nets import example, fed, outputs, prepared

from qdq.errors import ExportError
from qdq.export.writing import export_onnx
from qdq.graph import external_data
from qdq.graph.files import load
from qdq.validation.comparing import validate

NAME = "identity_skip"


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [13, 18])
def test_weights_lie_beside_the_file_and_compute_the_same(tmp_path: Path, opset: int) -> None:
    model, x, path = prepared(NAME), example(NAME), tmp_path / "m.onnx"
    report = export_onnx(model, x, path, external_data=True, opset=opset)
    (beside,) = tmp_path.glob("m.onnx.*.data")
    assert set(tmp_path.iterdir()) == {path, beside}
    assert report.data == str(beside)
    assert report.bytes == path.stat().st_size + beside.stat().st_size
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    held = onnx.load(path, load_external_data=False).graph.initializer
    outside = {each.name for each in held if each.data_location == onnx.TensorProto.EXTERNAL}
    assert {"c1.weight.codes", "c2.weight.codes", "head.weight.codes"} <= outside
    np.testing.assert_allclose(fed(session(path), x)[0], outputs(model, x)[0], rtol=1e-5, atol=1e-5)


def test_in_one_file_or_two_it_is_the_same_model(tmp_path: Path) -> None:
    for name, external in (("one", False), ("two", True)):
        export_onnx(
            prepared(NAME), example(NAME), tmp_path / f"{name}.onnx", external_data=external
        )
    assert load(tmp_path / "one.onnx") == load(tmp_path / "two.onnx")


def test_equal_models_give_equal_pairs(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        export_onnx(prepared(NAME), example(NAME), folder / "m.onnx", external_data=True)
        found.append({each.name: each.read_bytes() for each in folder.iterdir()})
    assert found[0] == found[1]


def test_what_protobuf_cannot_hold_goes_outside_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_onnx(prepared(NAME), example(NAME), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]
    monkeypatch.setattr(external_data, "MOST_INSIDE", 1000)
    export_onnx(prepared(NAME), example(NAME), tmp_path / "m.onnx")
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision_and_codes_as_input_go_with_it(tmp_path: Path) -> None:
    options: Any = {"precision": "float16", "input": "uint8_nhwc", "target": "onnxruntime"}
    results = []
    codes = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for external in (False, True):
        path = tmp_path / f"{external}.onnx"
        export_onnx(prepared(NAME), example(NAME), path, external_data=external, **options)
        results.append(session(path).run(None, {"input": codes})[0])
    assert results[0].dtype == np.float16
    np.testing.assert_array_equal(*results)


def test_validate_reads_the_pair(tmp_path: Path) -> None:
    model, path = prepared(NAME), tmp_path / "m.onnx"
    export_onnx(model, example(NAME), path, external_data=True)
    report = validate(path, [example(NAME)], reference=model, progress=False)
    assert report.rows[0].sqnr_db > 60


def test_what_protobuf_cannot_hold_is_refused_where_one_file_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "MOST_INSIDE", 1000)
    with pytest.raises(ExportError) as caught:
        export_onnx(prepared(NAME), example(NAME), tmp_path / "m.onnx", external_data=False)
    assert str(caught.value) == (
        "the weights are more than the 2 GB that protobuf holds in one file\n"
        f"  at:  {tmp_path / 'm.onnx'}\n"
        "  fix: leave out external_data=False"
    )
    assert not list(tmp_path.iterdir())
