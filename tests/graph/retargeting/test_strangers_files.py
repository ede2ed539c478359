"""Q/DQ files as others write them: old opsets, other domains, branches, odd grids."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdq.graph.retargeting.rewriting import retarget
from qdq.records.retargeting import RetargetReport
from tests.graph.retargeting.rewritten_files import ops, ran

TARGETS = ("tensorrt", "onnxruntime")
RNG = np.random.default_rng(0)
HELD: dict[str, Any] = {
    "sx": np.float32(0.02),
    "zx": np.uint8(128),
    "sw": np.float32(0.01),
    "zw": np.int8(0),
    "w": RNG.integers(-127, 127, (8, 4)).astype(np.int8),
    "b": RNG.standard_normal(4).astype(np.float32),
}
Q = helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"])
DQ = helper.make_node("DequantizeLinear", ["q", "sx", "zx"], ["d"])
WEIGHT = helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"])
PRODUCT = helper.make_node("MatMul", ["d", "wd"], ["m"])
SUM = helper.make_node("Add", ["m", "b"], ["y"])
LAYER = (Q, DQ, WEIGHT, PRODUCT, SUM)


def model_of(
    *nodes: onnx.NodeProto, opset: int = 13, domain: str = "", ir: int = 8, **held: Any
) -> onnx.ModelProto:
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    graph = helper.make_graph(
        copies,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(each, name) for name, each in {**HELD, **held}.items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] * bool(domain))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def rewritten(model: onnx.ModelProto, folder: Path, target: str) -> tuple[RetargetReport, Path]:
    """Rewritten, and found to compute what it did, but for a bias rounded finely."""
    source, path = folder / "m.onnx", folder / f"{target}.onnx"
    onnx.save(model, source)
    report = retarget(source, path, target)
    x = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    np.testing.assert_allclose(ran(path, x)[0], ran(source, x)[0], atol=2e-4)
    return report, path


@pytest.mark.parametrize("target", TARGETS)
def test_an_old_opset_is_raised(tmp_path: Path, target: str) -> None:
    report, path = rewritten(model_of(*LAYER, opset=11), tmp_path, target)
    assert [row.weight for row in report.rows] == ["kept"]
    assert onnx.load(path).opset_import[0].version == 13


@pytest.mark.parametrize("target", TARGETS)
def test_q_and_dq_of_microsofts_domain_are_the_same(tmp_path: Path, target: str) -> None:
    model = model_of(*LAYER, domain="com.microsoft")
    for node in model.graph.node:
        if node.op_type.endswith("Linear"):
            node.domain = "com.microsoft"
    report, path = rewritten(model, tmp_path, target)
    assert [row.fate for row in report.rows] == ["integer"]
    assert [each.domain for each in onnx.load(path).opset_import] == [""]


@pytest.mark.parametrize("target", TARGETS)
def test_an_operator_that_nobody_knows_stays(tmp_path: Path, target: str) -> None:
    total = helper.make_node("Add", ["m", "b"], ["t"])
    own = helper.make_node("Gelu", ["t"], ["y"], domain="com.microsoft")
    model = model_of(*LAYER[:4], total, own, domain="com.microsoft")
    report, path = rewritten(model, tmp_path, target)
    assert ops(path)["Gelu"] == 1
    assert report.sqnr is not None
    assert report.sqnr > 60


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_branch_reads_stays_readable(tmp_path: Path, target: str) -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["m", "b"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, op in (("then", "Add"), ("else", "Sub"))
    }
    choice = helper.make_node("If", ["c"], ["y"], **branches)
    model = model_of(*LAYER[:4], choice, c=np.array(True))
    report, path = rewritten(model, tmp_path, target)
    assert ops(path)["If"] == 1
    assert [row.fate for row in report.rows] == ["integer"]


@pytest.mark.parametrize("target", TARGETS)
def test_constant_nodes_and_inputs_with_values_are_constants(tmp_path: Path, target: str) -> None:
    scale = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(HELD["sx"]))
    q = helper.make_node("QuantizeLinear", ["x", "s", "zx"], ["q"])
    dq = helper.make_node("DequantizeLinear", ["q", "s", "zx"], ["d"])
    model = model_of(scale, q, dq, *LAYER[2:])
    for name in ("w", "zx"):
        kind = helper.np_dtype_to_tensor_dtype(HELD[name].dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, HELD[name].shape))
    report, path = rewritten(model, tmp_path, target)
    assert [row.weight for row in report.rows] == ["kept"]
    assert [each.name for each in onnx.load(path).graph.input] == ["x"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_axis_counted_from_the_end_is_counted_from_the_front(
    tmp_path: Path, target: str
) -> None:
    weight = helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=-1)
    scales = {"sw": np.float32([0.01, 0.02, 0.03, 0.04]), "zw": np.zeros(4, np.int8)}
    report, path = rewritten(model_of(Q, DQ, weight, *LAYER[3:], **scales), tmp_path, target)
    assert [row.weight for row in report.rows] == ["kept"]
    axes = [
        each.i for node in onnx.load(path).graph.node for each in node.attribute
        if each.name == "axis" and node.op_type == "DequantizeLinear"
    ]  # fmt: skip
    assert set(axes) <= {0, 1}


@pytest.mark.parametrize("target", TARGETS)
def test_16_bit_activations_stay_as_they_are_and_are_named(tmp_path: Path, target: str) -> None:
    wide = {"sx": np.float32(1e-4), "zx": np.uint16(32768)}
    report, path = rewritten(model_of(*LAYER, opset=21, ir=10, **wide), tmp_path, target)
    assert report.losses[0].what == "pair"
    assert "is none of one constant scale and 8-bit codes" in report.losses[0].why
    assert [row.fate for row in report.rows] == ["float"]
    assert ops(path)["QuantizeLinear"] == 1


def test_a_bias_that_int32_does_not_hold_leaves_its_layer_float(tmp_path: Path) -> None:
    gemm = helper.make_node("Gemm", ["d", "wd", "b"], ["y"])
    model = model_of(Q, DQ, WEIGHT, gemm, b=np.float32([1e6, 0, 0, 0]))
    source, path = tmp_path / "big.onnx", tmp_path / "float.onnx"
    onnx.save(model, source)
    report = retarget(source, path, "onnxruntime")
    assert "its bias does not fit int32 codes of its scale (O25)" in report.losses[0].why
    assert ops(path) == {"Gemm": 1}
    report, path = rewritten(model, tmp_path, "tensorrt")
    assert report.losses == ()
    assert ops(path)["QuantizeLinear"] == 1


def test_an_input_cut_off_at_zero_is_no_more_for_tensorrt_and_that_is_said(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(model_of(*LAYER, zx=np.uint8(0)), source)
    report = retarget(source, tmp_path / "t.onnx", "tensorrt")
    assert [str(each) for each in report.losses] == [
        "clamp at x: the file reads what is below 0 in this input as 0; that is not kept"
    ]
    assert retarget(source, tmp_path / "o.onnx", "onnxruntime").losses == ()
