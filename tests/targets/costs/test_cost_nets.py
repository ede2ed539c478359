"""What whole nets take, in any mixture: sums of what their parts take."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdq.targets.costs.nets import PricedNet, predict_ratio, price_net
from qdq.targets.costs.tables import CostTable, cost_table
from qdq.targets.opgraph import OpGraph
from tests.targets.costs.cost_nets import Sized, image_net, matrix_net

TABLE = cost_table("x86_vnni")


def simple(**ns: dict[str, float]) -> CostTable:
    """A table in which all costs nothing but these rows; `_` stands for a dot."""
    rows = {row.replace("_", "."): prices for row, prices in ns.items()}
    return CostTable("m", "s", {row: {} for row in TABLE.ns} | rows)


def priced(graph: OpGraph, table: CostTable = TABLE) -> PricedNet:
    net = price_net(graph, table)
    assert net is not None
    return net


def test_a_float_net_takes_what_its_ops_and_the_session_take() -> None:
    net = priced(image_net())
    assert list(net.float_ns) == ["stem", "body", "mean", "head"]
    stem = 0.0168 * 16 * 16 * 27 * 32 + 0.30 * 16 * 16 * 32
    assert net.float_ns["stem"] == pytest.approx(stem)
    assert net.total() == pytest.approx(sum(net.float_ns.values()) + 4000)


def test_an_edge_costs_where_floats_become_codes_and_where_codes_become_floats() -> None:
    table = simple(image_in={"element": 1.0}, map_in={"element": 10.0}, map_out={"element": 100.0})
    net = priced(image_net(pixels=4), table)
    image, map_ = 3 * 16, 32 * 16
    assert net.total(["stem"]) == image + 100 * map_
    assert net.total(["body"]) == 10 * map_ + 100 * map_
    assert net.total(["stem", "body"]) == image + 100 * map_


def test_a_tensor_with_two_readers_becomes_codes_once() -> None:
    net = Sized(1, 8, 4, 4)
    x = net.op("act", "sigmoid", 1)
    left, right = net.conv("left", x, 8), net.conv("right", x, 8)
    graph = net.done(net.op("join", "add", left, right))
    found = priced(graph, simple(map_in={"element": 1.0}))
    assert found.total(["left"]) == found.total(["left", "right"]) == 8 * 16


def test_a_matrix_product_gives_floats_for_nothing() -> None:
    table = simple(vector_in={"element": 1.0}, vector_out={"element": 100.0})
    assert priced(matrix_net(20, 30, 40), table).total(["fc0"]) == 20


def test_a_pool_whose_result_something_float_reads_runs_float() -> None:
    net = priced(image_net(), simple(mean_int8={"call": 7.0}))
    assert net.total(["stem", "body", "mean"]) == 0
    assert net.total(["stem", "body", "mean", "head"]) == 7


def test_channels_cost_what_they_are_padded_to_only_between_integer_ops() -> None:
    net = Sized(1, 16, 8, 8)
    x = net.conv("wide", net.op("act", "sigmoid", 1), 12)
    x = net.conv("deep", net.op("r1", "relu", x), 12, groups=12)
    graph = net.done(net.conv("last", net.op("r2", "relu", x), 16))
    found = priced(graph, simple(depthwise_int8={"output": 1.0}, depthwise_ragged={"output": 50.0}))
    assert found.integer_ns(["wide", "deep", "last"])["deep"] == 16 * 64
    assert found.integer_ns(["deep", "last"])["deep"] == 50 * 12 * 64


def test_a_layer_that_is_called_again_takes_its_time_again() -> None:
    def net(*names: str) -> PricedNet:
        sized, x = Sized(1, 32, 8, 8), 1
        for index, name in enumerate(names):
            x = sized.op(name, "silu", sized.conv(f"conv{index}", x, 32))
        return priced(sized.done(x))

    shared, own = net("act", "act", "act"), net("act0", "act1", "act2")
    integer = ["conv0", "conv1", "conv2"]
    assert shared.total() == pytest.approx(own.total())
    assert shared.total(integer) == pytest.approx(own.total(integer))


@pytest.mark.parametrize("rows", [2, 7])
def test_a_batch_is_predicted_as_one_row(rows: int) -> None:
    one = image_net()
    shapes = {tensor: (rows, *shape[1:]) for tensor, shape in one.shapes.items()}
    many = replace(one, shapes=shapes)
    assert priced(many).total(["stem", "body"]) == priced(one).total(["stem", "body"])


def test_an_image_without_a_batch_keeps_its_channels() -> None:
    graph = image_net()
    single = replace(graph, shapes={t: shape[1:] for t, shape in graph.shapes.items()})
    assert priced(single).float_ns["stem"] == priced(graph).float_ns["stem"]


@pytest.mark.parametrize(
    ("kind", "known"), [("sigmoid", True), ("matmul", True), ("lstm", False), ("gru_cell", False)]
)
def test_no_ratio_is_told_of_a_net_with_an_op_that_nobody_measured(kind: str, known: bool) -> None:
    net = Sized(1, 32)
    x = net.op("odd", kind, 1)
    found = predict_ratio(net.done(net.linear("fc", x, 32)), "x86_vnni", ["fc"])
    assert (found is not None) == known


def test_no_ratio_is_told_without_shapes_or_a_table_or_a_forward() -> None:
    graph = matrix_net(512, 512)
    assert predict_ratio(graph, "x86_vnni", ["fc0"]) is not None
    assert predict_ratio(graph, "", ["fc0"]) is None
    assert predict_ratio(None, "x86_vnni", ["fc0"]) is None
    assert predict_ratio(replace(graph, shapes={}), "x86_vnni", ["fc0"]) is None
    assert price_net(OpGraph((), ()), TABLE) is None


def test_no_ratio_is_told_by_prices_that_are_all_zero(tmp_path: Path) -> None:
    simple().to_json(tmp_path / "costs.json")
    assert predict_ratio(matrix_net(16, 16), str(tmp_path / "costs.json"), ["fc0"]) is None


def test_large_nets_gain_and_tiny_ones_lose_by_the_shipped_table() -> None:
    large = predict_ratio(matrix_net(1024, 1024, 1024), "x86_vnni", ["fc0", "fc1"])
    tiny = predict_ratio(matrix_net(16, 16, 16), "x86_vnni", ["fc0", "fc1"])
    assert large is not None
    assert tiny is not None
    assert large < 0.4 < 1 < tiny
