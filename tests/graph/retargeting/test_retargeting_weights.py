"""Weights of one scale, and weights as floats in front of a pair."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from qdq.graph import lint
from qdq.graph.retargeting.rewriting import retarget
from tests.graph.retargeting.rewritten_files import initializers, quantized_by_onnxruntime
from tests.graph.retargeting.test_strangers_files import DQ, PRODUCT, SUM, Q, model_of


@pytest.mark.parametrize("name", ["mlp", "max_pool_chain"])
def test_where_a_weight_has_one_scale_its_bias_has_one(tmp_path: Path, name: str) -> None:
    source = quantized_by_onnxruntime(name, "QUInt8", "QInt8", per_channel=False, symmetric=False)
    path = tmp_path / "m.onnx"
    retarget(source, path, "onnxruntime")
    scales = [each for key, each in initializers(path).items() if key.endswith("bias.scale")]
    assert scales
    assert all(each.ndim == 0 for each in scales)
    assert not [row for row in lint(path, "onnxruntime").rows if row.severity == "error"]


def test_a_float_weight_with_scales_per_channel_is_understood_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    scales, points = np.array([1, 2, 3, 4], np.float32) / 64, np.zeros(4, np.int8)
    quantize = helper.make_node("QuantizeLinear", ["floats", "sv", "zv"], ["codes"], axis=1)
    dequantize = helper.make_node("DequantizeLinear", ["codes", "sv", "zv"], ["wd"], axis=1)
    floats = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)
    model = model_of(Q, DQ, quantize, dequantize, PRODUCT, SUM, floats=floats, sv=scales, zv=points)
    onnx.save(model, tmp_path / "m.onnx")
    report = retarget(tmp_path / "m.onnx", tmp_path / "out.onnx", "tensorrt")
    assert not report.losses
    assert [each.weight for each in report.rows if each.op == "MatMul"] == ["kept"]


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_bias_that_comes_through_an_identity_is_a_constant(tmp_path: Path, target: str) -> None:
    """Torch writes so what equals another initializer; the layer is none to quantize else."""
    product = helper.make_node("Gemm", ["d", "wd", "same"], ["y"])
    same = helper.make_node("Identity", ["b"], ["same"])
    weight = helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"])
    onnx.save(model_of(Q, DQ, weight, same, product), tmp_path / "m.onnx")
    report = retarget(tmp_path / "m.onnx", tmp_path / "out.onnx", target)
    assert [(each.op, each.fate) for each in report.rows] == [("Gemm", "integer")]


def test_codes_of_a_bias_that_several_layers_share_through_an_identity_are_kept(
    tmp_path: Path,
) -> None:
    """quantize_static leaves the Identity behind the DQ."""
    codes = helper.make_node("DequantizeLinear", ["bq", "sb"], ["shared"])
    same = helper.make_node("Identity", ["shared"], ["same"])
    weight = helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"])
    product = helper.make_node("Gemm", ["d", "wd", "same"], ["y"])
    held = {"bq": np.array([5, -70, 0, 900], np.int32), "sb": np.float32(0.02) * np.float32(0.01)}
    onnx.save(model_of(Q, DQ, weight, codes, same, product, **held), tmp_path / "m.onnx")
    report = retarget(tmp_path / "m.onnx", tmp_path / "out.onnx", "onnxruntime")
    assert [(each.op, each.fate) for each in report.rows] == [("Gemm", "integer")]
    bias = [v for v in initializers(tmp_path / "out.onnx").values() if v.dtype == np.int32]
    assert [each.tolist() for each in bias if each.ndim] == [held["bq"].tolist()]
