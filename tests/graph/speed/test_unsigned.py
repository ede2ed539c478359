import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.speed.unsigned import shift_codes
from tests.graph.graph_sketch import Sketch, counted, executed


def kinds(graph: gs.Graph) -> list[tuple[np.dtype, int]]:
    nodes = [each for each in graph.nodes if each.op in ("QuantizeLinear", "DequantizeLinear")]
    points = [each.inputs[2].values for each in nodes if len(each.inputs) > 2]
    return [(point.dtype, int(point)) for point in points if not point.ndim]


def test_codes_and_zero_point_move_by_128() -> None:
    draw = Sketch(300)
    graph = draw.done(draw.pair(draw.x, "a", 0.01, -3, np.int8))
    assert counted(graph, shift_codes) == 1
    assert kinds(graph) == [(np.uint8, 125)] * 2


def test_all_readers_of_the_codes_move_along() -> None:
    draw = Sketch(1, 4, 6, 6)
    x = draw.pair(draw.x, "in", 0.05, 0, np.int8)
    left, right = (draw.pair(draw.integer_conv(x, 16, 4, 1, 1), site) for site in "ab")
    graph = draw.done(draw.node("Neg", left), draw.node("Neg", right))
    node = next(each for each in graph.nodes if each.op == "QuantizeLinear")
    twin = gs.Variable("twin", np.float32)
    graph.nodes.append(
        gs.Node("DequantizeLinear", "twin", {}, [node.outputs[0], *node.inputs[1:]], [twin])
    )
    graph.outputs.append(twin)
    assert counted(graph, shift_codes) == 1
    assert {kind for kind, _ in kinds(graph)} == {np.dtype(np.uint8)}


def test_a_weight_that_shares_its_zero_point_keeps_it() -> None:
    draw = Sketch(2, 3)
    shared = draw.constant("zero", np.int8(0))
    x, weight = draw.pair(draw.x, "in", 0.05, 0, np.int8), draw.weight("w", np.ones((3, 2)), 0.1)
    for node in draw.graph.nodes:
        node.inputs[2] = shared
    graph = draw.done(draw.node("MatMul", x, weight))
    assert counted(graph, shift_codes) == 1
    assert sorted(point for _, point in kinds(graph)) == [0, 128, 128]


def test_codes_that_somebody_else_reads_stay() -> None:
    draw = Sketch(6)
    values = draw.pair(draw.x, "a", 0.1, 0, np.int8)
    codes = next(node for node in draw.graph.nodes if node.op == "QuantizeLinear").outputs[0]
    cast = draw.node("Cast", codes, to=1)
    assert counted(draw.done(values, cast), shift_codes) == 0


def test_unsigned_and_wider_codes_stay() -> None:
    draw = Sketch(6)
    assert counted(draw.done(draw.pair(draw.x, "a", 0.1, 9)), shift_codes) == 0
    draw = Sketch(6, opset=21)
    assert counted(draw.done(draw.pair(draw.x, "a", 0.1, 9, np.int16)), shift_codes) == 0


def test_signed_residual_additions_then_run_in_integers() -> None:
    draw = Sketch(1, 16, 6, 6)
    x = draw.pair(draw.x, "in", 0.1, 0, np.int8)
    made = draw.pair(draw.integer_conv(x, 16, 16, 3, 3, pads=[1] * 4), "made", 0.1, 0, np.int8)
    graph = draw.done(draw.pair(draw.node("Add", x, made), "sum", 0.1, 0, np.int8))
    shift_codes(graph)
    found = executed(graph)
    assert (found["QLinearConv"], found["QLinearAdd"], found["Conv"]) == (1, 1, 0)
