"""Ranges in the metadata are used where they agree with the file, and never trusted."""

import json
from pathlib import Path

import onnx
import pytest

from qdq.graph.files import metadata
from qdq.graph.retargeting.notes import noted_ranges, ranges_note
from qdq.graph.retargeting.rewriting import retarget
from tests.graph.retargeting.rewritten_files import exported


def noting(text: str) -> onnx.ModelProto:
    model = onnx.load(exported("mlp", "tensorrt"))
    onnx.helper.set_model_props(model, metadata(model) | {"qdq.ranges": text})
    return model


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", "3", '{"a": 1}', '{"a": [1]}', '{"a": [2, 1]}', '{"a": ["x", 1]}',
     '{"a": [NaN, 1]}', '{"a": [-1e39, 1]}', "[" * 100_000, '{"a": [1' + "0" * 400 + ", 2]}"],
)  # fmt: skip
def test_what_is_no_note_is_as_good_as_none(text: str) -> None:
    assert noted_ranges(noting(text)) == {}


def test_a_note_is_read_as_it_was_written() -> None:
    ranges = {"a.input": (-0.1, 0.30000000000000004), "b": (0.0, 0.0)}
    assert noted_ranges(noting(ranges_note(ranges))) == ranges


def test_a_range_that_contradicts_its_pair_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(noting(json.dumps({"0.input": [-1000.0, 1000.0]})), path)
    report = retarget(path, tmp_path / "out.onnx", "onnxruntime")
    assert {each.origin for each in report.grids} == {"file"}


def test_what_is_written_notes_its_ranges(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    report = retarget(exported("mlp", "tensorrt"), path, "onnxruntime")
    noted = noted_ranges(onnx.load(path))
    assert set(noted) == {each.site for each in report.grids}
    assert noted["2.input"][0] == 0.0
    assert metadata(onnx.load(path))["qdq.target"] == "onnxruntime"
