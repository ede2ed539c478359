"""Inputs that are codes already: exactly what the same file makes of the floats."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_nets import Functional, conv, example, prepared
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.errors import GraphError, InputError
from qdq.export.writing import export_onnx
from qdq.graph.code_inputs import noted_inputs
from qdq.insertion.replacing import insert
from qdq.validation.comparing import validate

LEVELS = [
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
]


def session(path: Path, level: Any, optimized: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def codes_of(x: Any, said: dict[str, Any]) -> Any:
    """QuantizeLinear, then channels last."""
    steps = np.round(x / np.float32(said["scale"])) + said["zero_point"]
    codes = steps.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(codes.transpose(0, 2, 3, 1)) if said["channels_last"] else codes


def told(path: Path) -> dict[str, Any]:
    props = {each.key: each.value for each in onnx.load(path).metadata_props}
    return dict(json.loads(props["qdq.input"]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["uint8", "uint8_nhwc"])
@pytest.mark.parametrize("name", ["conv_last", "identity_skip", "two_inputs"])
def test_fed_codes_the_file_gives_the_bits_of_the_one_fed_floats(
    tmp_path: Path, name: str, form: str, level: Any
) -> None:
    model, x = prepared(name), example(name)
    export_onnx(model, x, tmp_path / "floats.onnx")
    export_onnx(model, x, tmp_path / "codes.onnx", input=form)
    floats = session(tmp_path / "floats.onnx", level)
    values = x if isinstance(x, tuple) else (x,)
    names = [each.name for each in floats.get_inputs()]
    feed = {key: value.numpy() for key, value in zip(names, values, strict=True)}
    inputs = told(tmp_path / "codes.onnx")
    assert list(inputs) == names
    images = [said["channels_last"] for key, said in inputs.items() if feed[key].ndim == 4]
    assert images == [form == "uint8_nhwc"]
    codes = {key: codes_of(value, inputs[key]) for key, value in feed.items()}
    got = session(tmp_path / "codes.onnx", level).run(None, codes)
    for ours, theirs in zip(got, floats.run(None, feed), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_onnxruntime_cancels_the_transpose_of_channels_that_come_last(tmp_path: Path) -> None:
    found = []
    for form in ("uint8", "uint8_nhwc"):
        path, seen = tmp_path / f"{form}.onnx", tmp_path / f"{form}.optimized.onnx"
        export_onnx(prepared("identity_skip"), example("identity_skip"), path, input=form)
        session(path, LEVELS[1], seen)
        found.append(Counter(node.op_type for node in onnx.load(seen).graph.node))
    assert [each["Transpose"] for each in found] == [2, 1]
    assert not any(each["QuantizeLinear"] for each in found)


def test_the_grid_that_the_file_tells_is_that_of_the_site(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    report = export_onnx(prepared("mlp"), example("mlp"), path, input="uint8")
    row = next(row for row in report.rows if row.site == "0.input")
    said = {"scale": row.scale, "zero_point": row.zero_point, "channels_last": False}
    assert told(path) == {"input": said}


def test_inputs_of_integers_stay_as_they_are(tmp_path: Path) -> None:
    def run(net: Any, picture: Tensor, index: Tensor) -> Tensor:
        return net.last(picture).flatten(1)[:, index]

    inputs = (example("conv_last"), torch.tensor([1, 3]))
    model = Functional(run, last=conv(3, 4)).eval()
    insert(model, inputs, target="onnxruntime")
    calibrate(model, [(inputs, None)], method="max", progress=False)
    names = ["picture", "index"]
    export_onnx(model, inputs, tmp_path / "m.onnx", input="uint8", input_names=names)
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = [each.type.tensor_type.elem_type for each in graph.input]
    assert kinds == [onnx.TensorProto.UINT8, onnx.TensorProto.INT64]
    assert list(told(tmp_path / "m.onnx")) == ["picture"]


def refused(tmp_path: Path, model: nn.Module, x: Any, **options: Any) -> str:
    with pytest.raises(GraphError) as caught:
        export_onnx(model, x, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())
    return str(caught.value)


def test_int8_codes_are_refused(tmp_path: Path) -> None:
    model = prepared("conv_last", "tensorrt")
    assert refused(tmp_path, model, example("conv_last"), input="uint8") == (
        "the codes of the input are int8, not uint8 of one scale\n"
        "  at:  input\n"
        '  fix: export for target "onnxruntime", or leave out input="uint8"'
    )


def test_an_input_that_something_reads_as_float_is_refused(tmp_path: Path) -> None:
    def run(net: Any, x: Tensor) -> Any:
        return net.last(x), x.exp()

    x = example("conv_last")
    model = Functional(run, last=conv(3, 4)).eval()
    insert(model, x, target="onnxruntime")
    calibrate(model, [x], method="max", progress=False)
    assert refused(tmp_path, model, x, input="uint8") == (
        "the input is read by Exp, QuantizeLinear, not by Q of one grid alone\n"
        "  at:  input\n"
        '  fix: leave out input="uint8", or quantize every layer that reads this input'
    )


def test_channels_last_without_an_image_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, prepared("mlp"), example("mlp"), input="uint8_nhwc") == (
        "no input has four axes: input ['batch', 12]\n  fix: pass input=\"uint8\""
    )


@pytest.mark.parametrize("form", ["uint8", "uint8_nhwc"])
def test_validate_feeds_such_a_file_the_codes_of_floats(tmp_path: Path, form: str) -> None:
    model, x, path = prepared("conv_last"), example("conv_last"), tmp_path / "m.onnx"
    export_onnx(model, x, tmp_path / "floats.onnx")
    export_onnx(model, x, path, input=form)
    report = validate(path, [x], reference=tmp_path / "floats.onnx", progress=False)
    assert report.rows[0].largest == 0.0


def test_floats_for_codes_that_nothing_is_noted_of_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(prepared("mlp"), example("mlp"), path, input="uint8")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"onnxruntime does not take input \(4, 12\)") as caught:
        validate(path, [example("mlp")], progress=False)
    assert "expected: (tensor(uint8))" in caught.value.what


@pytest.mark.parametrize(
    "note",
    ["no json", "[]", "3", '{"input": 1}', '{"input": {"scale": 1}}',
     '{"input": {"scale": NaN, "zero_point": 0, "channels_last": false}}',
     '{"input": {"scale": -1.0, "zero_point": 0, "channels_last": false}}',
     '{"input": {"scale": 1.0, "zero_point": 1e99, "channels_last": false}}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_note_is_as_good_as_none(note: str) -> None:
    assert noted_inputs({"qdq.input": note}) == {}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["uint8", "uint8_nhwc"])
@pytest.mark.parametrize("first", [[nn.Flatten()], [nn.MaxPool2d(2, padding=1), nn.Flatten()]])
def test_what_only_moves_values_before_the_q_moves_codes(
    tmp_path: Path, first: list[nn.Module], form: str, level: Any
) -> None:
    torch.manual_seed(0)
    x = example("conv_last")
    model = nn.Sequential(*first, nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model(x)
    insert(model, x, target="onnxruntime")
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, tmp_path / "floats.onnx")
    export_onnx(model, x, tmp_path / "codes.onnx", input=form)
    codes = codes_of(x.numpy(), told(tmp_path / "codes.onnx")["input"])
    (got,) = session(tmp_path / "codes.onnx", level).run(None, {"input": codes})
    (want,) = session(tmp_path / "floats.onnx", level).run(None, {"input": x.numpy()})
    np.testing.assert_array_equal(got, want)
