"""Two files compared: what is the same is not listed, what differs is, and by how much."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qdq.errors import GraphError
from qdq.graph.differing.difference import diff
from qdq.graph.differing.gaps import largest_gap
from qdq.records.difference import DifferenceReport, DifferenceRow


def tensor(name: str, values: Any, kind: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def pair(x: str, out: str, site: str = "s") -> list[onnx.NodeProto]:
    grid = [f"{site}.scale", f"{site}.zero"]
    return [
        helper.make_node("QuantizeLinear", [x, *grid], [f"{site}.codes"], f"{site}/Q"),
        helper.make_node("DequantizeLinear", [f"{site}.codes", *grid], [out], f"{site}/DQ"),
    ]


def net(**changed: Any) -> onnx.ModelProto:
    """x -> Q, DQ -> Gemm with int8 weight -> Relu -> y, with some of it replaced."""
    held = {
        "s.scale": np.float32(0.1),
        "s.zero": np.int8(0),
        "w.codes": np.int8([[1, 2], [3, 4]]),
        "w.scale": np.float32([0.5, 0.25]),
        "w.zero": np.int8([0, 0]),
        "bias": np.float32([1, -1]),
    }
    weight = ["w.codes", "w.scale", "w.zero"]
    nodes = changed.pop("nodes", None) or [
        *pair("x", "s"),
        helper.make_node("DequantizeLinear", weight, ["w"], "w/DQ", axis=0),
        helper.make_node("Gemm", ["s", "w", "bias"], ["g"], "fc", transB=1),
        helper.make_node("Relu", ["g"], ["y"], "relu"),
    ]
    opset, props = changed.pop("opset", 13), changed.pop("props", {})
    shape = changed.pop("shape", ["n", 2])
    held = {name: value for name, value in (held | changed).items() if value is not None}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    initializers = [tensor(name, value, value.dtype) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    helper.set_model_props(model, props)
    return model


def compared(folder: Path, one: onnx.ModelProto, two: onnx.ModelProto) -> DifferenceReport:
    for name, model in (("a", one), ("b", two)):
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return diff(folder / "a.onnx", folder / "b.onnx")


def only(report: DifferenceReport) -> DifferenceRow:
    (row,) = report.rows
    return row


def test_a_file_is_the_same_as_itself(tmp_path: Path) -> None:
    report = compared(tmp_path, net(), net())
    assert report.rows == ()
    assert (report.nodes, report.initializers) == (5, 6)
    assert str(report) == (
        f"{tmp_path}/a.onnx and {tmp_path}/b.onnx are the same: 5 nodes and 6 initializers are "
        "the same"
    )


def test_codes_differ_in_steps(tmp_path: Path) -> None:
    codes = np.int8([[1, 5], [3, 3]])
    row = only(compared(tmp_path, net(), net(**{"w.codes": codes})))
    assert row == DifferenceRow(
        "initializer", "changed", "w.codes", "DequantizeLinear", "2 of 4 values differ", 3.0, 3.0
    )


def test_a_scale_is_told_by_how_far_the_last_code_moves(tmp_path: Path) -> None:
    row = only(compared(tmp_path, net(), net(**{"w.scale": np.float32([0.5, 0.375])})))
    assert (row.name, row.largest, row.steps) == ("w.scale", 0.125, pytest.approx(127 / 2))


def test_a_float_value_has_no_steps(tmp_path: Path) -> None:
    row = only(compared(tmp_path, net(), net(bias=np.float32([1, -1.5]))))
    assert (row.op, row.largest, row.steps) == ("Gemm", 0.5, None)


@pytest.mark.parametrize(("axis", "steps"), [(0, 0.25 / 0.5), (1, 0.25 / 0.125)])
def test_a_weight_that_a_q_reads_is_told_in_steps_of_its_channel(
    tmp_path: Path, axis: int, steps: float
) -> None:
    def written(values: Any) -> onnx.ModelProto:
        grid = ["k.scale", "k.zero"]
        nodes = [
            helper.make_node("QuantizeLinear", ["k", *grid], ["k.codes"], "k/Q", axis=axis),
            helper.make_node("DequantizeLinear", ["k.codes", *grid], ["kq"], "k/DQ", axis=axis),
            helper.make_node("MatMul", ["x", "kq"], ["y"], "m"),
        ]
        scales, zeros = np.float32([0.5, 0.125]), np.int8([0, 0])
        return net(nodes=nodes, **{"k": np.float32(values), "k.scale": scales, "k.zero": zeros})

    row = only(compared(tmp_path, written([[1, 1], [1, 1]]), written([[1, 1.25], [1, 1]])))
    assert (row.name, row.op, row.largest) == ("k", "QuantizeLinear", 0.25)
    assert row.steps == pytest.approx(steps)


def test_another_type_or_shape_is_said_and_not_measured(tmp_path: Path) -> None:
    row = only(compared(tmp_path, net(), net(**{"s.zero": np.uint8(0)})))
    assert (row.what, row.largest, row.steps) == ("int8 () -> uint8 ()", None, None)
    row = only(compared(tmp_path, net(), net(bias=np.float32([[1, -1]]))))
    assert row.what == "float (2) -> float (1, 2)"


def test_values_that_are_not_finite_are_an_infinite_difference(tmp_path: Path) -> None:
    report = compared(tmp_path, net(), net(bias=np.float32([np.nan, -1])))
    assert only(report).largest == np.inf
    assert report.to_dict()["rows"][0]["largest"] == "inf"


def test_nodes_are_added_removed_and_changed(tmp_path: Path) -> None:
    weight = ["w.codes", "w.scale", "w.zero"]
    nodes = [
        *pair("x", "s"),
        helper.make_node("DequantizeLinear", weight, ["w"], "w/DQ", axis=1),
        helper.make_node("Gemm", ["s", "w", "bias"], ["y"], "fc"),
    ]
    report = compared(tmp_path, net(), net(nodes=nodes))
    assert [(row.subject, row.change, row.name, row.op, row.what) for row in report.rows] == [
        ("node", "changed", "w/DQ", "DequantizeLinear", "axis: 0 -> 1"),
        ("node", "changed", "fc", "Gemm", "transB: removed was 1; outputs (g) -> (y)"),
        ("node", "removed", "relu", "Relu", "(g) -> (y)"),
    ]
    mirrored = compared(tmp_path, net(nodes=nodes), net())
    assert [(row.change, row.name) for row in mirrored.rows] == [
        ("changed", "w/DQ"), ("changed", "fc"), ("added", "relu")
    ]  # fmt: skip


def test_another_operator_under_a_name_is_a_change(tmp_path: Path) -> None:
    nodes = list(net().graph.node)
    nodes[-1] = helper.make_node("Sigmoid", ["g"], ["y"], "relu")
    row = only(compared(tmp_path, net(), net(nodes=nodes)))
    assert (row.name, row.op, row.what) == ("relu", "Sigmoid", "Relu -> Sigmoid")


def behind_relu(site: str = "s") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        *pair("r", "y", site),
    ]
    return net(nodes=nodes, **renamed(site))


def before_relu(site: str = "s") -> onnx.ModelProto:
    nodes = [*pair("x", "d", site), helper.make_node("Relu", ["d"], ["y"], "relu")]
    return net(nodes=nodes, **renamed(site))


def renamed(site: str) -> dict[str, Any]:
    gone: dict[str, Any] = {} if site == "s" else {"s.scale": None, "s.zero": None}
    return {**gone, f"{site}.scale": np.float32(0.1), f"{site}.zero": np.int8(0)}


@pytest.mark.parametrize("site", ["s", "another"])
def test_a_pair_that_quantizes_another_tensor_has_moved(tmp_path: Path, site: str) -> None:
    report = compared(tmp_path, behind_relu(), before_relu(site))
    moved = [row for row in report.rows if row.subject == "pair"]
    assert [(row.change, row.name, row.op) for row in moved] == [("moved", "s/Q", "QuantizeLinear")]
    assert moved[0].what.startswith("inputs (r, s.scale, s.zero) -> (x, ")
    added = {row.name for row in report.rows if (row.subject, row.change) == ("node", "added")}
    assert "another/Q" not in added


def test_opsets_ends_and_metadata_are_compared(tmp_path: Path) -> None:
    one = net(props={"qdq.target": "tensorrt", "old": "1"})
    two = net(opset=17, shape=[4, 2], props={"qdq.target": "onnxruntime", "new": "x" * 500})
    rows = {(row.subject, row.name): row for row in compared(tmp_path, one, two).rows}
    assert rows["opset", "ai.onnx"].what == "13 -> 17"
    assert rows["input", "x"].what == "float (n, 2) -> float (4, 2)"
    assert rows["output", "y"].what == "float (n, 2) -> float (4, 2)"
    assert rows["metadata", "qdq.target"].what == "tensorrt -> onnxruntime"
    assert (rows["metadata", "old"].change, rows["metadata", "old"].what) == ("removed", "was 1")
    assert rows["metadata", "new"].what == "x" * 97 + "..."
    assert len(rows) == 6


def test_nodes_without_names_are_found_by_what_they_make(tmp_path: Path) -> None:
    models = net(), net()
    for model in models:
        for node in model.graph.node:
            node.name = ""
    models[1].graph.node[3].attribute[0].i = 0
    row = only(compared(tmp_path, *models))
    assert (row.name, row.what) == ("Gemm -> g", "transB: 1 -> 0")


def test_nodes_that_share_a_name_are_kept_apart(tmp_path: Path) -> None:
    models = net(), net()
    for model in models:
        for node in model.graph.node:
            node.name = "same"
    models[1].graph.node[4].op_type = "Sigmoid"
    row = only(compared(tmp_path, *models))
    assert (row.name, row.what) == ("same (5)", "Relu -> Sigmoid")


def test_nodes_in_branches_are_compared(tmp_path: Path) -> None:
    def branching(op: str) -> onnx.ModelProto:
        info = [helper.make_tensor_value_info("p", TensorProto.FLOAT, [2, 2])]
        body = helper.make_graph([helper.make_node(op, ["x"], ["p"], "inner")], "t", [], info)
        other = helper.make_graph([helper.make_node("Exp", ["x"], ["p"], "else")], "e", [], info)
        nodes = [helper.make_node("If", ["yes"], ["y"], "if", then_branch=body, else_branch=other)]
        return net(nodes=nodes, yes=np.bool_(True), shape=[2, 2])

    row = only(compared(tmp_path, branching("Relu"), branching("Tanh")))
    assert (row.name, row.what) == ("if/inner", "Relu -> Tanh")


def test_values_outside_the_files_are_compared_and_missed_by_name(tmp_path: Path) -> None:
    paths = []
    for name, value in (("a", 1.0), ("b", 1.5)):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "m.onnx")
        options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
        onnx.save(net(bias=np.float32([value, -1])), paths[-1], **options)
    assert only(diff(*paths)).largest == 0.5
    (tmp_path / "b" / "m.data").unlink()
    with pytest.raises(GraphError) as caught:
        diff(*paths)
    assert caught.value.at == str(paths[1])


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.onnx").write_bytes(b"hello")
    (tmp_path / "a.onnx").write_bytes(net().SerializeToString())
    with pytest.raises(GraphError, match="no valid ONNX model") as caught:
        diff(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert caught.value.at == str(tmp_path / "b.onnx")


def test_a_report_counts_its_rows_and_comes_back_from_json(tmp_path: Path) -> None:
    report = compared(tmp_path, net(), net(bias=np.float32([2, -1]), opset=14))
    assert str(report) == (
        f"{tmp_path}/a.onnx -> {tmp_path}/b.onnx: 1 opset changed, 1 initializer changed; 5 nodes "
        "and 5 initializers are the same"
    )
    report.to_json(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text("utf-8")
    assert DifferenceReport.from_dict(json.loads(text)) == report


numbers = st.floats(-1e6, 1e6, width=32)


@given(st.lists(numbers, min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_the_largest_gap_is_that_of_plain_subtraction(one: list[float], data: Any) -> None:
    two = data.draw(st.lists(numbers, min_size=len(one), max_size=len(one)))
    expected = max(abs(a - b) for a, b in zip(one, two, strict=True))
    assert largest_gap(np.array(one), np.array(two)) == expected


def test_equal_infinities_and_nans_are_no_gap() -> None:
    odd = np.array([np.inf, -np.inf, np.nan, 1.0])
    assert largest_gap(odd, odd) == 0
    assert largest_gap(odd, -odd) == np.inf
    assert largest_gap(np.uint8([0]), np.uint8([255])) == 255
    assert largest_gap(np.zeros(0), np.zeros(0)) == 0
