"""quantize: float ONNX files of several makes into Q/DQ files that run, or a reason why not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qdq.errors import PolicyError
from qdq.graph import explain, lint, quantize
from qdq.graph.coverage import integer_layers, optimized_ops
from qdq.graph.files import metadata
from qdq.records.quantizing import QuantizationReport
from tests.graph.quantizing.float_nets import FloatNet, images, residual_net, run, saved

TARGETS = ("onnxruntime", "tensorrt")


def quantized(
    model: ModelProto, folder: Path, data: Any = None, target: str = "onnxruntime", **options: Any
) -> QuantizationReport:
    source = saved(model, folder)
    given = images() if data is None else data
    return quantize(source, folder / "q.onnx", given, target=target, progress=False, **options)


def sqnr(a: Any, b: Any) -> float:
    return float(10 * np.log10((a.astype(float) ** 2).sum() / ((a - b).astype(float) ** 2).sum()))


@pytest.mark.parametrize("target", TARGETS)
def test_a_residual_net_comes_close_to_float_and_breaks_no_rule(
    tmp_path: Path, target: str
) -> None:
    report = quantized(residual_net(), tmp_path, target=target)
    x = images(16, seed=7)
    before, after = (run(tmp_path / name, {"x": x})[0] for name in ("float.onnx", "q.onnx"))
    assert sqnr(before, after) > 20
    assert lint(tmp_path / "q.onnx", target).counts["error"] == 0
    assert report.counts == {"integer": 6, "float": 0}
    assert report.integer_macs == report.macs > 0
    assert "BatchNormalizations folded: 3" in report.notes


def test_for_onnxruntime_every_layer_runs_in_integers_there(tmp_path: Path) -> None:
    quantized(residual_net(), tmp_path)
    ops = optimized_ops(tmp_path / "q.onnx")
    assert integer_layers(ops) == (4, 4)
    assert not {"BatchNormalization", "Relu", "FusedConv", "GlobalAveragePool"} & ops.keys()
    assert explain(tmp_path / "q.onnx").float_nodes == 0


def test_a_pool_beside_a_skip_has_the_range_of_what_it_pools(tmp_path: Path) -> None:
    net = FloatNet("batch", 3, 16, 16)
    skip = net.op("Relu", net.conv("x", 16, 3))
    pooled = net.op("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    scales = net.hold(np.float32([1, 1, 2, 2]))
    up = net.op("Resize", net.conv(pooled, 16, 16), "", scales, mode="nearest")
    model = net.model(net.conv(net.op("Concat", up, skip, axis=1), 4, 32))
    quantized(model, tmp_path, images(64, 3, 16, 16) ** 3)
    assert not lint(tmp_path / "q.onnx").rows
    assert optimized_ops(tmp_path / "q.onnx")["DequantizeLinear"] == 1


@pytest.mark.parametrize("opset", [13, 21])
def test_codes_with_several_readers_are_written_for_the_portable_target(
    tmp_path: Path, opset: int
) -> None:
    net = FloatNet("batch", 3, 8, 8, opset=opset)
    stem = net.conv("x", 16, 3)
    gate = net.op("HardSwish" if opset > 13 else "Sigmoid", stem)
    flat = net.op("Reshape", stem, net.hold(np.int64([0, 16, 64])))
    result = net.conv(net.op("Add", net.conv(stem, 16, 16), stem), 4, 16)
    report = quantized(
        net.model(result, gate, net.op("Exp", flat)), tmp_path, target="tensorrt:portable"
    )
    assert min(row.sqnr_db for row in report.outputs) > 20


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 17, 18, 21])
def test_opsets_from_nine_on_give_the_same_codes(tmp_path: Path, opset: int) -> None:
    report = quantized(residual_net(opset), tmp_path)
    converted = [note for note in report.notes if note.startswith("converted")]
    assert converted == ([f"converted from opset {opset} to 13"] if opset < 13 else [])
    assert report.opset == max(opset, 13)
    codes = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "q.onnx").graph.initializer
        if each.name.endswith(".codes")
    }
    again = tmp_path / "again"
    again.mkdir()
    quantized(residual_net(13), again)
    for each in onnx.load(again / "q.onnx").graph.initializer:
        if each.name.endswith(".codes"):
            np.testing.assert_array_equal(codes[each.name], numpy_helper.to_array(each))


def test_initializers_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    model = residual_net()
    for each in model.graph.initializer:
        listed = helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        model.graph.input.append(listed)
    report = quantized(model, tmp_path)
    assert f"{len(model.graph.initializer)} inputs have a value in the file" in report.notes[0]
    assert [each.name for each in onnx.load(tmp_path / "q.onnx").graph.input] == ["x"]
    assert report.counts["integer"] == 6


def test_weights_behind_constants_identities_and_transposes_are_weights(tmp_path: Path) -> None:
    net = FloatNet("batch", 8)
    value = numpy_helper.from_array(net.draw(8, 16).T.copy())
    constant = net.op("Constant", value=value)
    weight = net.op("Identity", net.op("Transpose", constant, perm=[1, 0]))
    product = net.op("MatMul", "x", weight)
    report = quantized(
        net.model(net.op("Add", product, net.hold(net.draw(16)))), tmp_path, images(8, 8)
    )
    assert [(row.op, row.numbers) for row in report.rows] == [("Gemm", "integer")]
    assert optimized_ops(tmp_path / "q.onnx")["QGemm"] == 1


def test_a_weight_that_two_layers_share_is_written_once(tmp_path: Path) -> None:
    net = FloatNet(1, 8, 6, 6)
    weight = net.hold(net.draw(8, 8, 1, 1))
    first = net.op("Relu", net.op("Conv", "x", weight))
    model = net.model(net.op("Conv", first, weight))
    quantized(model, tmp_path, images(8, 8, 6, 6), target="tensorrt")
    held = onnx.load(tmp_path / "q.onnx").graph.initializer
    assert sum(each.data_type == TensorProto.INT8 and len(each.dims) == 4 for each in held) == 1


def test_several_inputs_and_outputs_keep_their_names_and_types(tmp_path: Path) -> None:
    net = FloatNet("n", 4, "h", "w")
    mask = net.input("mask", "n", 4, "h", "w")
    left = net.conv("x", 8, 4)
    joined = net.op("Concat", left, net.conv(mask, 8, 4), axis=1)
    model = net.model(net.conv(joined, 4, 16), left, rank=4)
    data = [{"x": images(2, 4, 9, 7, seed=i), "mask": images(2, 4, 9, 7)} for i in range(3)]
    report = quantized(model, tmp_path, data)
    made = onnx.load(tmp_path / "q.onnx").graph
    assert [each.name for each in made.input] == ["x", "mask"]
    assert [each.name for each in made.output] == [each.name for each in model.graph.output]
    assert [row.name for row in report.outputs] == [each.name for each in model.graph.output]
    assert all(row.sqnr_db > 25 for row in report.outputs)
    other = {"x": images(1, 4, 5, 5), "mask": images(1, 4, 5, 5)}
    assert run(tmp_path / "q.onnx", other)[0].shape == (1, 4, 5, 5)


def test_a_branch_stays_float_and_what_it_reads_is_still_there(tmp_path: Path) -> None:
    net = FloatNet("n", 4, 6, 6)
    body = net.conv("x", 4, 4)
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        node = helper.make_node(op, [body], [f"{name}_y"])
        branches[name] = helper.make_graph([node], name, [], [result])
    total = net.op("Greater", net.op("ReduceSum", "x", keepdims=0), net.hold(np.float32(0)))
    model = net.model(net.conv(net.op("If", total, **branches), 2, 4), rank=4)
    report = quantized(model, tmp_path, images(8, 4, 6, 6))
    rows = {row.op: row for row in report.rows}
    assert (rows["If"].numbers, rows["Conv"].numbers) == ("float", "integer")
    assert rows["If"].why == "its branches are left as they are"
    assert report.outputs[0].sqnr_db > 25


def test_an_operator_of_another_domain_stays_float(tmp_path: Path) -> None:
    net = FloatNet("n", 4, 6, 6)
    foreign = net.op("Gelu", net.conv("x", 4, 4), domain="com.microsoft", name="gelu")
    model = net.model(net.conv(foreign, 2, 4), rank=4)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    report = quantized(model, tmp_path, images(8, 4, 6, 6))
    row = next(row for row in report.rows if row.name == "gelu")
    assert row.why == "an operator of 'com.microsoft', which nobody here knows"
    assert (report.counts["integer"], report.outputs[0].sqnr_db > 25) == (2, True)


def test_what_is_ignored_stays_float_by_name_by_glob_and_by_operator(tmp_path: Path) -> None:
    convs = [node.name for node in residual_net().graph.node if node.op_type == "Conv"]
    ignore = [convs[0], "re:^gemm", "GlobalAverage*"]
    report = quantized(residual_net(), tmp_path, ignore=ignore)
    why = {row.name: row.why for row in report.rows if row.numbers == "float"}
    assert why[convs[0]] == f"ignored by {convs[0]!r}"
    assert {each for each in why.values()} == {f"ignored by {each!r}" for each in ignore}
    with pytest.raises(PolicyError, match=r"ignore pattern 'nothing\*' fits nothing"):
        quantized(residual_net(), tmp_path, ignore="nothing*")


def test_equal_files_and_data_give_equal_bytes_whatever_the_batches(tmp_path: Path) -> None:
    first = quantized(residual_net(), tmp_path, images(8))
    parts = [{"x": each} for each in np.split(images(8), 8)]
    second = quantized(residual_net(), tmp_path, iter(parts[::-1]), method="mse")
    assert (first.batches, second.batches) == (1, 8)
    third = quantized(residual_net(), tmp_path, images(8))
    assert first.sha256 == third.sha256
    for one, other in zip(first.ranges, second.ranges, strict=True):
        assert (one.site, one.values) == (other.site, other.values)
        np.testing.assert_allclose(
            [one.amin, one.amax], [other.amin, other.amax], rtol=1e-2, atol=1e-6
        )


def test_the_metadata_names_target_and_sites_and_keeps_what_was_there(tmp_path: Path) -> None:
    model = residual_net()
    helper.set_model_props(model, {"author": "somebody"})
    quantized(model, tmp_path)
    kept = metadata(onnx.load(tmp_path / "q.onnx"))
    assert (kept["author"], kept["qdq.target"]) == ("somebody", "onnxruntime")
    assert "conv0.weight" in kept["qdq.sites"]


def test_a_file_of_a_fixed_batch_takes_more_rows_at_once(tmp_path: Path) -> None:
    report = quantized(residual_net(batch=2), tmp_path, images(8))
    assert (report.batches, report.checked) == (4, 4)


def test_best_takes_the_method_whose_outputs_come_closest(tmp_path: Path) -> None:
    closest = {
        method: quantized(residual_net(), tmp_path, method=method).outputs[0].sqnr_db
        for method in ("max", "mse", "percentile", "entropy", "coverage")
    }
    best = quantized(residual_net(), tmp_path, method="best")
    assert best.method == max(closest, key=lambda name: closest[name])
    assert best.outputs[0].sqnr_db == max(closest.values())
    assert best.notes[-1].startswith(f"of all methods: {best.method} ")


def test_best_looks_at_the_outputs_that_differ(tmp_path: Path) -> None:
    net = FloatNet("n", 3, 8, 8)
    net.nodes.append(helper.make_node("Identity", ["x"], ["same"], name="same"))
    model = net.model(net.conv(net.op("Relu", net.conv("x", 8, 3)), 4, 8), "same")
    report = quantized(model, tmp_path, images(4, 3, 8, 8) ** 5, method="best")
    wanted = {
        method: quantized(model, tmp_path, images(4, 3, 8, 8) ** 5, method=method).outputs
        for method in ("max", "mse", "percentile", "entropy", "coverage")
    }
    assert report.outputs[0].sqnr_db == max(each[0].sqnr_db for each in wanted.values())
    assert report.outputs[1].sqnr_db == float("inf")


def test_the_report_comes_back_from_its_dictionary(tmp_path: Path) -> None:
    report = quantized(residual_net(), tmp_path)
    whole = report.to_dict()
    assert whole.pop("counts") == {"integer": 6, "float": 0}
    assert QuantizationReport.from_dict(whole) == report
    assert "6 of 6 nodes that compute are between Q/DQ pairs, 100.0% of" in str(report)
    assert "dB against float on 1 batches" in str(report)


def test_no_torch_is_imported(tmp_path: Path) -> None:
    saved(residual_net(), tmp_path)
    np.save(tmp_path / "rows.npy", images())
    code = (
        "import sys; from qdq.cli import app\n"
        "app(['quantize', 'float.onnx', 'q.onnx', '--data', 'rows.npy', '--target', "
        "'onnxruntime'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "q.onnx").is_file()


def test_a_half_precision_file_keeps_its_inputs_and_outputs(tmp_path: Path) -> None:
    net = FloatNet("n", 3, 4, 4, dtype=TensorProto.FLOAT16)
    weight = net.hold(net.draw(8, 3, 1, 1).astype(np.float16))
    first = net.op("Relu", net.op("Conv", "x", weight))
    second = net.hold(net.draw(4, 8, 1, 1).astype(np.float16))
    model = net.model(net.op("Conv", first, second), first)
    for each in model.graph.output:
        each.type.tensor_type.elem_type = TensorProto.FLOAT16
    x = images(4, 3, 4, 4).astype(np.float16)
    report = quantized(model, tmp_path, x)
    assert report.counts["integer"] == 2
    assert all(row.sqnr_db > 25 for row in report.outputs)
    assert report.notes[0].startswith("float16 constants, casts, inputs and outputs, now float32")
    assert [each.dtype for each in run(tmp_path / "q.onnx", {"x": x})] == [np.float16] * 2
