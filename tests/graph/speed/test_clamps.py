from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.graph.speed.clamps import clamp_codes
from tests.graph.graph_sketch import Sketch, counted, executed, ops


def clamped(draw: Sketch, x: gs.Tensor, low: float | None, high: float | None) -> gs.Tensor:
    ends = [
        gs.Variable.empty() if end is None else draw.constant(name, np.float32(end))
        for name, end in (("low", low), ("high", high))
    ]
    return draw.node("Clip", x, *ends)


@pytest.mark.parametrize(("kind", "lowest"), [(np.uint8, 0), (np.int8, -128)])
def test_a_relu_that_q_does_anyway_is_dropped(kind: Any, lowest: int) -> None:
    draw = Sketch(1, 1, 5, 5)
    graph = draw.done(draw.pair(draw.node("Relu", draw.conv(draw.x)), "out", 0.1, lowest, kind))
    assert counted(graph, clamp_codes) == 1
    assert ops(graph) == {"Conv": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}


@pytest.mark.parametrize("scale", [6 / 255, 0.02, 0.001])
def test_a_relu6_whose_six_is_beyond_the_highest_code_is_dropped(scale: float) -> None:
    draw = Sketch(1, 1, 5, 5)
    graph = draw.done(draw.pair(clamped(draw, draw.conv(draw.x), 0, 6), "out", scale))
    assert counted(graph, clamp_codes) == 1
    assert "Clip" not in ops(graph)


def test_a_limit_beyond_all_floats_is_the_highest_code() -> None:
    draw = Sketch(1, 1, 5, 5)
    graph = draw.done(draw.pair(clamped(draw, draw.conv(draw.x), 0, 6), "out", 1e-38))
    assert counted(graph, clamp_codes) == 1


def integer_conv(kind: Any = np.int8, point: int = 0, *, behind: str = "Relu") -> gs.Graph:
    draw = Sketch(1, 4, 6, 6)
    x = draw.integer_conv(draw.pair(draw.x, "in", 0.1, 0, kind), 16, 4, 3, 3)
    x = draw.node("Relu", x) if behind == "Relu" else clamped(draw, x, -1.03, 2.5)
    return draw.done(draw.pair(x, "out", 0.05, point, kind))


@pytest.mark.parametrize(("kind", "point"), [(np.int8, 0), (np.uint8, 128), (np.uint8, 3)])
@pytest.mark.parametrize("behind", ["Relu", "Clip"])
def test_any_other_clamp_of_an_integer_op_is_done_on_codes(
    kind: Any, point: int, behind: str
) -> None:
    graph = integer_conv(kind, point, behind=behind)
    assert counted(graph, clamp_codes) == 1
    chain = [node.op for node in graph.nodes][-4:]
    assert chain == ["Conv", "QuantizeLinear", "Clip", "DequantizeLinear"]


def test_the_op_before_such_a_clamp_then_runs_in_integers() -> None:
    graph = integer_conv(np.uint8, 128)
    assert "QLinearConv" not in executed(graph)
    clamp_codes(graph)
    assert executed(graph)["QLinearConv"] == 1


def test_a_clamp_of_floats_that_q_would_not_do_stays() -> None:
    draw = Sketch(6)
    relu = draw.node("Relu", draw.node("Neg", draw.x))
    graph = draw.done(draw.pair(relu, "out", 0.1, 128))
    assert counted(graph, clamp_codes) == 0


@pytest.mark.parametrize("where", ["before", "behind", "output"])
def test_a_clamp_of_which_somebody_else_reads_the_values_stays(where: str) -> None:
    draw = Sketch(1, 4, 6, 6)
    made = draw.integer_conv(draw.pair(draw.x, "in"), 4, 4, 1, 1)
    relu = draw.node("Relu", made)
    read = {"before": made, "behind": relu}
    others = [draw.node("Neg", read[where])] if where in read else [relu]
    graph = draw.done(draw.pair(relu, "out", 0.1, 7), *others)
    assert counted(graph, clamp_codes) == 0


def test_codes_that_are_an_output_are_not_clipped_behind_it() -> None:
    graph = integer_conv(np.uint8, 128)
    codes = next(node for node in graph.nodes if node.name == "out/QuantizeLinear").outputs[0]
    graph.outputs.append(codes)
    codes.dtype, codes.shape = np.dtype(np.uint8), [1, 16, 4, 4]
    assert counted(graph, clamp_codes) == 0


def test_codes_of_sixteen_bits_are_not_clipped() -> None:
    draw = Sketch(1, 4, 6, 6, opset=21)
    made = draw.integer_conv(draw.pair(draw.x, "in"), 4, 4, 1, 1)
    graph = draw.done(draw.pair(draw.node("Relu", made), "out", 0.1, 9, np.uint16))
    assert counted(graph, clamp_codes) == 0


def test_a_clamp_in_front_of_two_grids_goes_only_if_both_do_it() -> None:
    for second, wanted in ((0, 1), (9, 0)):
        draw = Sketch(6)
        relu = draw.node("Relu", draw.node("Neg", draw.x))
        pairs = [draw.pair(relu, "a", 0.1, 0), draw.pair(relu, "b", 0.2, second)]
        assert counted(draw.done(*pairs), clamp_codes) == wanted


def test_a_clamp_to_limits_that_are_computed_stays() -> None:
    draw = Sketch(6)
    low = draw.node("ReduceMin", draw.x, keepdims=0)
    graph = draw.done(draw.pair(draw.node("Clip", draw.x, low), "out"))
    assert counted(graph, clamp_codes) == 0


@given(
    scale=st.floats(0.01, 0.2),
    point=st.integers(0, 255),
    ends=st.tuples(st.floats(-4, 4), st.floats(-4, 4)).map(sorted),
)
@settings(max_examples=25, deadline=None)
def test_clamping_and_rounding_may_change_places(
    scale: float, point: int, ends: list[float]
) -> None:
    draw = Sketch(64)
    total = draw.node("Add", draw.pair(draw.x, "a", 0.03, 99), draw.pair(draw.x, "b", 0.03, 99))
    graph = draw.done(draw.pair(clamped(draw, total, *ends), "out", scale, point))
    assert counted(graph, clamp_codes) == 1
