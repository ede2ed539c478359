"""What a pair cuts off stays cut off where the second file has none, or is named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdq.graph.retargeting.rewriting import retarget
from qdq.records.retargeting import RetargetReport
from tests.graph.retargeting.rewritten_files import decibels, ops, ran
from tests.graph.retargeting.test_strangers_files import DQ, PRODUCT, WEIGHT, Q, model_of

FROM_ZERO = {"s0": np.float32(0.001), "z0": np.uint8(0)}
BOTH_SIDES = {"s0": np.float32(0.001), "z0": np.uint8(128)}
X = 0.5 * np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)


def paired(before: str, after: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    return (
        helper.make_node("QuantizeLinear", [before, "s0", "z0"], [f"{before}.codes"]),
        helper.make_node("DequantizeLinear", [f"{before}.codes", "s0", "z0"], [after]),
    )


def last(before: str, op: str = "Tanh") -> onnx.NodeProto:
    """What no target runs on codes."""
    return helper.make_node(op, [before], ["y"])


def rewritten(model: onnx.ModelProto, folder: Path, target: str) -> tuple[RetargetReport, Path]:
    source, path = folder / "m.onnx", folder / f"{target}.onnx"
    onnx.save(model, source)
    return retarget(source, path, target, data=[{"x": X}]), path


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime", "tensorrt:portable"])
def test_a_clip_that_a_quantizer_dropped_for_the_pair_behind_it_is_there_again(
    tmp_path: Path, target: str
) -> None:
    """quantize_static does so: without it a hard swish is another function."""
    shifted = helper.make_node("Exp", ["m"], ["e"])
    less = helper.make_node("Sub", ["e", "sx"], ["f"])  # may be negative
    model = model_of(Q, DQ, WEIGHT, PRODUCT, shifted, less, *paired("f", "d0"), last("d0"),
                     **FROM_ZERO)  # fmt: skip
    report, path = rewritten(model, tmp_path, target)
    assert ops(path)["Clip"] == 1
    assert decibels(ran(tmp_path / "m.onnx", X), ran(path, X)) > 35
    assert not report.losses


def test_where_the_target_rounds_it_anew_a_relu_does(tmp_path: Path) -> None:
    again = helper.make_node("MatMul", ["d0", "wd2"], ["y"])
    weight = helper.make_node("DequantizeLinear", ["w2", "sw", "zw"], ["wd2"])
    model = model_of(Q, DQ, WEIGHT, PRODUCT, *paired("m", "d0"), weight, again,
                     w2=np.ones((4, 3), np.int8), **FROM_ZERO)  # fmt: skip
    _, path = rewritten(model, tmp_path, "tensorrt")
    assert (ops(path)["Relu"], ops(path)["Clip"]) == (1, 0)


def test_values_that_no_pair_clips_any_more_are_named_with_their_share(tmp_path: Path) -> None:
    model = model_of(Q, DQ, WEIGHT, PRODUCT, *paired("m", "d0"), last("d0"), **BOTH_SIDES)
    report, path = rewritten(model, tmp_path, "tensorrt")
    assert ops(path)["Clip"] == 0
    loss = next(each for each in report.losses if each.what == "clamp")
    values = ran(path, X)[0]
    share = np.mean((np.arctanh(values) < -0.1285) | (np.arctanh(values) > 0.1275))
    said = float(loss.why.split("clips ")[1].split("%")[0]) / 100
    assert said == pytest.approx(float(share), abs=0.02)
    assert loss.why.endswith("% of its values to -0.128..0.127; no pair is there any more")


@pytest.mark.parametrize("op", ["MatMul", "Tanh"])
def test_an_input_that_was_read_as_0_below_it_is_named_unless_it_still_is(
    tmp_path: Path, op: str
) -> None:
    reader = helper.make_node("MatMul", ["d0", "wd"], ["y"]) if op == "MatMul" else last("d0")
    model = model_of(*paired("x", "d0"), WEIGHT, reader, **FROM_ZERO | {"s0": np.float32(0.02)})
    report, path = rewritten(model, tmp_path, "onnxruntime")
    kept = decibels(ran(tmp_path / "m.onnx", X), ran(path, X)) > 35
    assert kept == (op == "MatMul")
    assert [each.what for each in report.losses] == ([] if kept else ["clamp"])


def given_as_codes() -> onnx.ModelProto:
    """The same layer behind an input of codes."""
    taken = helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["d"])
    product = helper.make_node("MatMul", ["d", "wd"], ["m"])
    model = model_of(taken, WEIGHT, product, *paired("m", "y"),
                     s0=np.float32(0.1), z0=np.uint8(128))  # fmt: skip
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_range_of_an_input_of_codes_is_that_of_its_codes(tmp_path: Path, target: str) -> None:
    onnx.save(given_as_codes(), tmp_path / "m.onnx")
    codes: Any = np.random.default_rng(1).integers(0, 256, (16, 8)).astype(np.uint8)
    report = retarget(tmp_path / "m.onnx", tmp_path / "out.onnx", target, data=[{"x": codes}])
    assert [each.fate for each in report.rows] == ["integer"]
    assert {each.origin for each in report.grids} == {"file"}
    before, after = (ran(tmp_path / name, codes) for name in ("m.onnx", "out.onnx"))
    assert decibels(before, after) > 30
    if target == "onnxruntime":
        assert not report.losses
        assert ops(tmp_path / "out.onnx")["QuantizeLinear"] == 0  # the codes are there already
    else:
        why = "its codes are made outside of the graph: the DequantizeLinear stays as it is"
        assert [str(each) for each in report.losses] == [f"pair at x: {why}"]


def test_random_codes_are_fed_where_codes_are_asked_for(tmp_path: Path) -> None:
    onnx.save(given_as_codes(), tmp_path / "m.onnx")
    report = retarget(tmp_path / "m.onnx", tmp_path / "out.onnx", "tensorrt")
    assert report.largest  # zeros have no difference
    assert report.sqnr is not None
    assert report.sqnr > 30


def test_integers_that_may_be_anything_are_0_and_the_certificate_says_so(tmp_path: Path) -> None:
    picked = helper.make_node("Gather", ["y", "i"], ["z"])
    model = model_of(Q, DQ, WEIGHT, helper.make_node("MatMul", ["d", "wd"], ["y"]), picked)
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [3]))
    model.graph.output[0].name = "z"
    onnx.save(model, tmp_path / "m.onnx")
    report = retarget(tmp_path / "m.onnx", tmp_path / "out.onnx", "tensorrt")
    noise = "noise, which ranges chosen on data may not fit: pass data"
    text = f"8 random inputs, seeded, integers all 0 ({noise})"
    assert report.evidence == text
