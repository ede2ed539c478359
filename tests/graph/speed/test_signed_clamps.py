"""Clamps in front of int8 codes around 0: rounded before, and nothing else changes."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.signed_clamps import round_before_clamps
from tests.graph.graph_sketch import Sketch, counted, executed


def clamped(point: int, kind: type, op: str = "Relu", *, readers: int = 1) -> gs.Graph:
    draw = Sketch(1, 4, 6, 6)
    layer = draw.integer_conv(draw.pair(draw.x, "in", kind=kind), 16, 4, 1, 1)
    limits = [draw.constant("low", np.float32(-0.33)), draw.constant("high", np.float32(1.07))]
    clamp = draw.node(op, layer, *(limits if op == "Clip" else ()))
    pairs = [draw.pair(clamp, f"y{i}", 0.1, point, kind) for i in range(readers)]
    return draw.done(*(draw.node("Neg", each) for each in pairs))


@pytest.mark.parametrize("op", ["Relu", "Clip"])
@pytest.mark.parametrize("point", [0, -5, 100])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_layer_before_a_clamp_meets_a_q_and_runs_in_integers(
    op: str, point: int, readers: int
) -> None:
    graph = clamped(point, np.int8, op, readers=readers)
    assert executed(graph)["QLinearConv"] == 0
    assert counted(graph, round_before_clamps) == 1
    assert executed(graph)["QLinearConv"] == 1
    assert {op, "QuantizeLinear"} <= executed(graph).keys()


@pytest.mark.parametrize(("point", "kind"), [(-128, np.int8), (0, np.uint8), (128, np.uint8)])
def test_a_clamp_that_vanishes_and_codes_that_are_uint8_are_left_alone(
    point: int, kind: type
) -> None:
    assert counted(clamped(point, kind), round_before_clamps) == 0


def test_a_clamp_of_floats_gets_no_pair() -> None:
    draw = Sketch(1, 4, 6, 6)
    graph = draw.done(draw.pair(draw.node("Relu", draw.node("Exp", draw.x)), "y", kind=np.int8))
    assert counted(graph, round_before_clamps) == 0


def test_two_grids_behind_a_clamp_leave_it_alone() -> None:
    graph = clamped(0, np.int8, readers=2)
    quantizer = next(each for each in graph.nodes if each.name == "y1/QuantizeLinear")
    for each in (quantizer, *quantizer.outputs[0].outputs):
        each.inputs[1] = gs.Constant(f"{each.name}.wide", np.array(0.2, np.float32))
    assert counted(graph, round_before_clamps) == 0


def test_a_clamp_that_something_float_reads_is_left_alone() -> None:
    graph = clamped(0, np.int8)
    clamp = next(each for each in graph.nodes if each.op == "Relu")
    other = gs.Variable("other", np.float32)
    graph.nodes.append(gs.Node("Exp", "Exp", {}, [clamp.outputs[0]], [other]))
    graph.outputs.append(other)
    assert counted(graph, round_before_clamps) == 0


def test_a_second_run_finds_nothing() -> None:
    graph = clamped(0, np.int8)
    assert (round_before_clamps(graph), round_before_clamps(graph)) == (1, 0)
