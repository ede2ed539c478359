"""A rewritten file against the one that is exported for that target from the same model."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from qdq.graph.differing.difference import diff
from qdq.graph.linting.judging import lint
from qdq.graph.retargeting.rewriting import retarget
from tests.export.export_nets import NETS
from tests.graph.retargeting.rewritten_files import (
    code_types,
    decibels,
    exported,
    fresh,
    initializers,
    ops,
    ran,
    weight_codes,
)

OTHER = {"tensorrt": "onnxruntime", "onnxruntime": "tensorrt"}
# Sums of three are two operators in a file, and `x + x` is pointwise there.
SUMS = ("three_way_add", "three_way_shared_add", "doubled")
PLAIN = [name for name in NETS if name not in (*SUMS, "single_conv", "two_branches", "two_outputs")]


@pytest.mark.parametrize("target", OTHER)
@pytest.mark.parametrize("name", PLAIN)
def test_with_ranges_noted_it_computes_what_the_exported_file_does_but_for_biases(
    tmp_path: Path, name: str, target: str
) -> None:
    source, path = exported(name, OTHER[target], noted=True), tmp_path / "m.onnx"
    report = retarget(source, path, target)
    assert not report.losses
    wanted = exported(name, target, noted=True)
    # Biases are rounded once more: half a step of s_x * s_w, which moves single codes.
    assert decibels(ran(wanted, fresh(name)), ran(path, fresh(name))) > 35
    found, hoped = ops(path), ops(wanted)
    assert found["Relu"] + found["Clip"] == hoped["Relu"] + hoped["Clip"]
    for op in ("QuantizeLinear", "Conv", "Gemm", "Add", "MaxPool"):
        if name != "linear_on_sequences":  # whose MatMul is a flat Gemm for onnxruntime
            assert found[op] == hoped[op], op


@pytest.mark.parametrize("name", ["linear_without_bias"])
@pytest.mark.parametrize("target", OTHER)
def test_without_biases_not_a_bit_differs_from_the_exported_file(
    tmp_path: Path, name: str, target: str
) -> None:
    path = tmp_path / "m.onnx"
    retarget(exported(name, OTHER[target], noted=True), path, target)
    wanted = ran(exported(name, target, noted=True), fresh(name))
    np.testing.assert_array_equal(ran(path, fresh(name))[0], wanted[0])


@pytest.mark.parametrize("target", OTHER)
def test_scales_and_codes_are_found_again_by_name(tmp_path: Path, target: str) -> None:
    path = tmp_path / "m.onnx"
    retarget(exported("identity_skip", OTHER[target], noted=True), path, target)
    wanted = exported("identity_skip", target, noted=True)
    rows = diff(wanted, path).rows
    differing = {row.name for row in rows if row.subject == "initializer"}
    # Biases are rounded once more, and channels that were padded for onnxruntime stay so.
    assert {each for each in differing if ".bias" not in each and ".weight" not in each} == set()


@pytest.mark.parametrize("target", OTHER)
@pytest.mark.parametrize("name", NETS)
def test_weights_are_the_same_codes(tmp_path: Path, name: str, target: str) -> None:
    source, path = exported(name, OTHER[target]), tmp_path / "m.onnx"
    report = retarget(source, path, target, skip_passes=("pad_channels", "pad_stem"))
    assert {row.weight for row in report.rows} <= {"kept", ""}
    before = {each.tobytes() for each in weight_codes(source)}
    if target == "onnxruntime":  # that for onnxruntime has been padded on its way
        assert {each.tobytes() for each in weight_codes(path)} == before
    assert len(weight_codes(path)) <= len(before)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", NETS)
def test_codes_are_of_the_targets_type(tmp_path: Path, name: str, target: str) -> None:
    path = tmp_path / "m.onnx"
    retarget(exported(name, OTHER[target]), path, target)
    assert code_types(path) == {"int8" if target == "tensorrt" else "uint8"}
    biases = [each for each in initializers(path).values() if each.dtype == np.int32]
    assert bool(biases) == (target == "onnxruntime" and name != "linear_without_bias")
    onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.parametrize("name", PLAIN)
def test_lint_finds_no_error_for_the_new_target(tmp_path: Path, name: str) -> None:
    for target, other in OTHER.items():
        path = tmp_path / f"{target}.onnx"
        retarget(exported(name, other, noted=True), path, target)
        assert lint(path, target).counts["error"] == 0


@pytest.mark.parametrize("name", [each for each in NETS if each not in SUMS])
def test_to_its_own_target_not_a_bit_changes(tmp_path: Path, name: str) -> None:
    source, path = exported(name, "tensorrt"), tmp_path / "m.onnx"
    report = retarget(source, path, "tensorrt")
    assert report.sqnr == float("inf")
    for got, want in zip(ran(path, fresh(name)), ran(source, fresh(name)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "name", ["mlp", "max_pool_chain", "average_pool_chain", "depthwise", "batch_norm_chain",
             "identity_skip", "linear_on_sequences", "two_inputs"],
)  # fmt: skip
def test_there_and_back_with_steps_kept_not_a_bit_changes(tmp_path: Path, name: str) -> None:
    source, there, back = exported(name, "tensorrt"), tmp_path / "o.onnx", tmp_path / "t.onnx"
    retarget(source, there, "onnxruntime", match=True)
    retarget(there, back, "tensorrt", match=True)
    for got, want in zip(ran(back, fresh(name)), ran(source, fresh(name)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["downsample_skip", "identity_skip", "pool_with_two_readers"])
def test_a_missing_range_is_measured_on_data_and_the_sum_runs_in_integers(
    tmp_path: Path, name: str
) -> None:
    source, path = exported(name, "tensorrt"), tmp_path / "m.onnx"
    without = retarget(source, path, "onnxruntime")
    assert {row.fate for row in without.rows if row.op == "Add"} == {"float"}
    given = onnx.load(source).graph.input[0].name
    report = retarget(source, path, "onnxruntime", data=[{given: fresh(name).numpy()}])
    assert {row.fate for row in report.rows if row.op == "Add"} == {"integer"}
    assert "measured" in {row.origin for row in report.grids}
    assert report.losses == ()
    assert report.evidence == "4 samples of the data"
    assert decibels(ran(source, fresh(name)), ran(path, fresh(name))) > 25


def test_for_tensorrt_8_weights_are_floats_behind_q_and_dq(tmp_path: Path) -> None:
    source, path = exported("mlp", "onnxruntime"), tmp_path / "m.onnx"
    retarget(source, path, "tensorrt:8")
    plain = tmp_path / "plain.onnx"
    retarget(source, plain, "tensorrt")
    assert ops(path)["QuantizeLinear"] == ops(plain)["QuantizeLinear"] + 3
    assert weight_codes(path) == []
    np.testing.assert_array_equal(ran(path, fresh("mlp"))[0], ran(plain, fresh("mlp"))[0])


def test_equal_files_give_equal_bytes_and_source_may_be_destination(tmp_path: Path) -> None:
    source = exported("identity_skip", "onnxruntime")
    one, two = tmp_path / "a.onnx", tmp_path / "b.onnx"
    retarget(source, one, "tensorrt")
    two.write_bytes(source.read_bytes())
    retarget(two, two, "tensorrt")
    assert one.read_bytes() == two.read_bytes()
