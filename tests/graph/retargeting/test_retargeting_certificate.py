"""What the certificate of a rewritten file says, against what is measured apart from it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qdq.graph.retargeting.rewriting import retarget
from qdq.records.retargeting import RetargetReport
from tests.export.export_nets import NETS
from tests.graph.retargeting.rewritten_files import (
    decibels,
    exported,
    fresh,
    quantized_by_onnxruntime,
    ran,
    seen,
)

OTHER = {"tensorrt": "onnxruntime", "onnxruntime": "tensorrt"}


@pytest.mark.parametrize("target", OTHER)
@pytest.mark.parametrize("name", NETS)
def test_with_steps_kept_each_operator_is_at_most_one_step_apart(
    tmp_path: Path, name: str, target: str
) -> None:
    report = retarget(exported(name, OTHER[target]), tmp_path / "m.onnx", target, match=True)
    ran_alone = [row for row in report.rows if row.steps is not None]
    assert ran_alone
    assert max(row.steps or 0.0 for row in ran_alone) <= 1.001


def test_the_trial_sees_an_operator_that_computes_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported("mlp", "tensorrt")
    assert (retarget(source, tmp_path / "m.onnx", "onnxruntime", match=True).worst_steps or 0) < 0.1

    def doubled(*arguments: Any) -> Any:
        found = before(*arguments)
        return replace(found, codes=found.codes * 2)

    from qdq.graph.retargeting import trials

    before = trials.integer_bias
    monkeypatch.setattr(trials, "integer_bias", doubled)
    assert (retarget(source, tmp_path / "m.onnx", "onnxruntime", match=True).worst_steps or 0) > 0.5


def test_the_whole_files_differ_by_what_the_report_says(tmp_path: Path) -> None:
    source, path = exported("average_pool_chain", "onnxruntime"), tmp_path / "m.onnx"
    x = fresh("average_pool_chain")
    report = retarget(source, path, "tensorrt", data=[{"input": x.numpy()}])
    one, other = ran(source, x), ran(path, x)
    assert report.sqnr == pytest.approx(decibels(one, other), abs=0.01)
    assert report.largest == pytest.approx(float(np.abs(one[0] - other[0]).max()), rel=1e-5)
    same = float(np.mean(one[0].argmax(1) == other[0].argmax(1)))
    assert report.agreement == pytest.approx(same)


def test_the_clipped_share_is_that_of_the_values_beyond_the_ends(tmp_path: Path) -> None:
    x = np.linspace(-8, 8, 4 * 12, dtype=np.float32).reshape(4, 12)
    source = exported("mlp", "onnxruntime")
    report = retarget(source, tmp_path / "m.onnx", "tensorrt", data=[{"input": x}])
    grid = next(each for each in report.grids if each.site == "0.input")
    step = float(grid.after.rpartition(" ")[2])
    assert grid.clipped_after == pytest.approx(float(np.mean(np.abs(x) > 127 * step)), abs=0.03)
    assert grid.clipped_after > 0.1


def test_match_keeps_every_step_or_doubles_it(tmp_path: Path) -> None:
    for target, other in OTHER.items():
        report = retarget(exported("depthwise", other), tmp_path / "m.onnx", target, match=True)
        for grid in report.grids:
            steps = [float(each.rpartition(" ")[2]) for each in (grid.before, grid.after) if each]
            assert steps[-1] / steps[0] in (
                pytest.approx(1, rel=1e-5),
                pytest.approx(2, rel=1e-5),
            )


def test_without_match_unsigned_codes_are_used_to_the_full(tmp_path: Path) -> None:
    report = retarget(exported("mlp", "tensorrt"), tmp_path / "m.onnx", "onnxruntime")
    behind_relu = next(each for each in report.grids if each.site == "2.input")
    before, after = (
        float(each.rpartition(" ")[2]) for each in (behind_relu.before, behind_relu.after)
    )
    assert after == pytest.approx(before * 127 / 255)
    assert "zero point 0" in behind_relu.after


def test_a_range_that_nothing_tells_is_named_and_the_place_left_float(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    report = retarget(exported("identity_skip", "tensorrt"), path, "onnxruntime")
    loss = next(each for each in report.losses if each.place.endswith("Add"))
    assert loss.what == "range"
    assert "is not in the file, nor can it be derived: it stays float" in loss.why
    assert f"not kept: {loss}" in str(report)
    optimized = ran(path, fresh("identity_skip"), optimize=True)
    plain = ran(path, fresh("identity_skip"))
    assert decibels(plain, optimized) > 25


def test_random_inputs_are_said_to_be_random(tmp_path: Path) -> None:
    report = retarget(exported("mlp", "tensorrt"), tmp_path / "m.onnx", "onnxruntime")
    assert (
        report.evidence
        == "8 random inputs, seeded (noise, which ranges chosen on data may not fit: pass data)"
    )
    assert "whole file, on 8 random inputs" in str(report)


def test_the_report_goes_through_json(tmp_path: Path) -> None:
    report = retarget(exported("mlp", "tensorrt"), tmp_path / "m.onnx", "tensorrt")
    assert report.sqnr == float("inf")
    report.to_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert RetargetReport.from_dict(read) == report
    assert {"name", "op", "fate", "why", "weight", "steps"} == set(read["rows"][0])


@pytest.mark.parametrize(
    ("activation", "weight", "per_channel", "symmetric"),
    [("QUInt8", "QInt8", True, False), ("QInt8", "QInt8", True, True),
     ("QUInt8", "QUInt8", False, False), ("QInt8", "QInt8", False, False)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["residual", "max_pool_chain", "batch_norm_chain", "mlp"])
def test_files_of_onnxruntimes_quantizer_are_rewritten_for_both_targets(
    tmp_path: Path, name: str, activation: str, weight: str, per_channel: bool, symmetric: bool
) -> None:
    source = quantized_by_onnxruntime(
        name, activation, weight, per_channel=per_channel, symmetric=symmetric
    )
    given = onnx.load(source).graph.input[0].name
    for target in OTHER:
        path = tmp_path / f"{target}.onnx"
        report = retarget(source, path, target, data=[{given: seen(name)}])
        assert decibels(ran(source, seen(name)), ran(path, seen(name))) > 27
        assert not [loss for loss in report.losses if loss.what != "clamp"]
        layers = [row for row in report.rows if row.op in ("Conv", "Gemm", "Add")]
        assert {row.fate for row in layers} == {"integer"}
        hows = {row.weight for row in layers} - {""}
        assert hows <= {"kept", "shifted"} or (weight == "QUInt8" and target == "tensorrt")
