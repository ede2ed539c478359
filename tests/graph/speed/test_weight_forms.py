"""Weights as floats in front of Q and DQ compute what their codes did."""

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.linting.judging import lint
from qdq.graph.speed.weight_forms import write_weights_as_floats
from tests.graph.graph_sketch import Sketch, counted, ops, written


def layers(*, many: bool) -> gs.Graph:
    draw = Sketch(1, 4, 6, 6)
    x = draw.pair(draw.x, "in", 0.05, kind=np.int8)
    if many:
        return draw.done(draw.integer_conv(x, 16, 4, 3, 3, bias="float"))
    codes = np.random.default_rng(0).integers(-127, 128, (16, 4, 3, 3))
    return draw.done(draw.node("Conv", x, draw.weight("w", codes, 0.013)))


@pytest.mark.parametrize("many", [True, False])
def test_the_floats_give_the_codes_back(many: bool) -> None:
    graph = layers(many=many)
    assert counted(graph, write_weights_as_floats) == 1
    assert ops(graph)["QuantizeLinear"] == 2
    held = [each for node in graph.nodes for each in node.inputs if isinstance(each, gs.Constant)]
    assert {each.values.dtype for each in held if each.values.ndim == 4} == {np.dtype(np.float32)}


def test_lint_asks_for_it_and_is_content_then(tmp_path: Path) -> None:
    graph = layers(many=True)
    for rules in ({"T06"}, set()):
        (tmp_path / "m.onnx").write_bytes(written(graph))
        assert {row.rule for row in lint(tmp_path / "m.onnx", "tensorrt:8").rows} == rules
        write_weights_as_floats(graph)


def test_a_missing_zero_point_is_written_so_that_codes_stay_int8() -> None:
    graph = layers(many=False)
    weight = next(each for each in graph.nodes if each.name == "w/DequantizeLinear")
    del weight.inputs[2]
    assert counted(graph, write_weights_as_floats) == 1


def test_biases_and_other_codes_stay() -> None:
    draw = Sketch(1, 4, 6, 6)
    graph = draw.done(draw.integer_conv(draw.pair(draw.x, "in"), 16, 4, 1, 1, bias="int32"))
    assert counted(graph, write_weights_as_floats) == 1
    biases = [each for each in graph.nodes if each.name == "conv_0.bias/DequantizeLinear"]
    assert [each.inputs[0].values.dtype for each in biases] == [np.dtype(np.int32)]


def test_a_second_run_finds_nothing() -> None:
    graph = layers(many=True)
    assert (write_weights_as_floats(graph), write_weights_as_floats(graph)) == (1, 0)


@pytest.mark.parametrize("scales", [(0.01, 0.01), (0.01, 0.02)])
def test_codes_that_several_layers_read_become_floats_for_each(scales: tuple[float, float]) -> None:
    draw = Sketch(1, 4, 6, 6)
    codes = np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3))
    x = draw.pair(draw.x, "in", 0.05, kind=np.int8)
    for index, scale in enumerate(scales):
        x = draw.node("Conv", x, draw.weight(f"w{index}", codes, scale))
    graph = draw.done(x)
    first, second = (node for node in graph.nodes if node.name.startswith("w"))
    second.inputs[0] = first.inputs[0]
    assert counted(graph, write_weights_as_floats) == 2
