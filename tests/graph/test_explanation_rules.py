"""What kept a node of a small graph from running on codes in onnxruntime, and what did not."""

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.explaining.explanation import explain
from tests.graph.explained_files import fates, file_of, relu_net, row
from tests.graph.graph_sketch import Sketch


@pytest.mark.parametrize(("point", "kind"), [(0, np.uint8), (-128, np.int8)])
def test_a_relu_in_front_of_the_lowest_code_goes_with_its_layer(
    tmp_path: Path, point: int, kind: type
) -> None:
    report = explain(file_of(relu_net(point, kind), tmp_path))
    assert fates(report) == {"Conv": "integer", "Relu": "integer"}
    assert row(report, "Conv_0").why == "runs as QLinearConv"
    assert row(report, "Relu_0").why == "fused with Conv_0"


@pytest.mark.parametrize(("point", "kind"), [(128, np.uint8), (0, np.int8)])
def test_a_relu_in_front_of_a_middle_zero_point_keeps_its_layer_float(
    tmp_path: Path, point: int, kind: type
) -> None:
    report = explain(file_of(relu_net(point, kind), tmp_path))
    assert fates(report) == {"Conv": "float", "Relu": "float"}
    assert row(report, "Conv_0").rule == row(report, "Relu_0").rule == "O04"


def without_q(draw: Sketch) -> gs.Tensor:
    return draw.integer_conv(draw.pair(draw.x, "in"), 8, 8, 3, 3)


def two_q(draw: Sketch) -> gs.Tensor:
    layer = without_q(draw)
    return draw.node("Add", draw.pair(layer, "a", 0.1), draw.pair(layer, "b", 0.2))


def curve(draw: Sketch) -> gs.Tensor:
    return draw.pair(draw.node("Tanh", draw.pair(draw.x, "in")), "y")


def one_float_side(draw: Sketch) -> gs.Tensor:
    return draw.pair(draw.node("Add", draw.pair(draw.x, "in"), draw.node("Exp", draw.x)), "y")


def residual(draw: Sketch) -> gs.Tensor:
    x = draw.pair(draw.x, "in")
    layer = draw.integer_conv(x, 8, 8, 1, 1)
    return draw.pair(draw.node("Add", layer, x), "y")


def unlike_grids(draw: Sketch) -> gs.Tensor:
    pooled = draw.node("MaxPool", draw.pair(draw.x, "in", 0.1), kernel_shape=[2, 2])
    return draw.pair(pooled, "y", 0.2)


@pytest.mark.parametrize(
    ("build", "op", "rule"),
    [
        (without_q, "Conv", "O02"),
        (two_q, "Conv", "O17"),
        (curve, "Tanh", "O14"),
        (one_float_side, "Add", "O09"),
        (residual, "Add", "O10"),
        (unlike_grids, "MaxPool", "O12"),
    ],
)
def test_a_float_node_bears_the_rule_it_breaks(
    tmp_path: Path, build: object, op: str, rule: str
) -> None:
    draw = Sketch(1, 8, 6, 6)
    report = explain(file_of(draw.done(build(draw)), tmp_path))  # type: ignore[operator]
    found = next(each for each in report.rows if each.op == op)
    assert (found.fate, found.rule) == ("float", rule)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("several", [True, False])
def test_int8_codes_with_more_than_one_reader_keep_their_layer_float(
    tmp_path: Path, kind: type, readers: int, several: bool
) -> None:
    draw = Sketch(1, 8, 6, 6)
    first = second = draw.pair(without_q(draw), "y", kind=kind)
    if several:  # each reader has a DQ of its own
        second = gs.Variable("twin", np.float32)
        inputs = list(first.inputs[0].inputs)
        draw.graph.nodes.append(gs.Node("DequantizeLinear", "twin", {}, inputs, [second]))
    outputs = [draw.node("Exp", first), draw.node("Tanh", second)][:readers]
    found = row(explain(file_of(draw.done(*outputs), tmp_path)), "Conv_0")
    if kind is np.int8 and readers == 2:
        why = "int8 codes of y/QuantizeLinear have 2 readers: they cannot become uint8"
        assert (found.fate, found.rule, found.why) == ("float", "O27", why)
    else:
        assert found.fate == "integer"


def test_layers_behind_int8_codes_with_several_readers_are_float_by_the_same_rule(
    tmp_path: Path,
) -> None:
    draw = Sketch(1, 8, 6, 6)
    x = draw.pair(draw.node("Exp", draw.x), "in", kind=np.int8)
    layers = [draw.pair(draw.integer_conv(x, 8, 8, 1, 1), f"y{i}", kind=np.int8) for i in (0, 1)]
    report = explain(file_of(draw.done(*layers), tmp_path))
    found = {(each.fate, each.rule) for each in report.rows if each.op == "Conv"}
    assert found == {("float", "O27")}
    assert row(report, "in/QuantizeLinear").rule == "O27"


def test_a_pool_between_equal_grids_runs_on_codes(tmp_path: Path) -> None:
    draw = Sketch(1, 8, 6, 6)
    pooled = draw.node("MaxPool", draw.pair(draw.x, "in", 0.1), kernel_shape=[2, 2])
    report = explain(file_of(draw.done(draw.pair(pooled, "y", 0.1)), tmp_path))
    assert fates(report) == {"MaxPool": "integer"}
    assert {each.name for each in report.rows if each.fate == "convert"} == {
        "in/QuantizeLinear", "y/DequantizeLinear"
    }  # fmt: skip


def test_what_is_constant_is_folded_and_what_does_nothing_is_removed(tmp_path: Path) -> None:
    draw = Sketch(2, 3)
    two = draw.node("Sqrt", draw.constant("four", np.float32([[4, 4, 4]])))
    scaled = draw.node("Mul", draw.node("Identity", draw.x), two)
    report = explain(file_of(draw.done(scaled), tmp_path))
    assert row(report, "Sqrt_0").fate == "folded"
    assert row(report, "Identity_0").fate == "removed"
    assert row(report, "Mul_0").fate == "float"


def test_indices_are_neither_integer_nor_float_work(tmp_path: Path) -> None:
    draw = Sketch("n", 3)
    best = draw.node("ArgMax", draw.node("Exp", draw.x), out=np.int64, axis=1)
    graph = draw.done(best)
    graph.outputs[0].dtype = np.int64
    report = explain(file_of(graph, tmp_path))
    assert fates(report) == {"Exp": "float", "ArgMax": "index"}
    assert (report.integer_nodes, report.float_nodes) == (0, 1)
