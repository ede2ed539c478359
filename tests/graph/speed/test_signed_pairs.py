"""Int8 codes with several readers: each gets a pair of its own, and nothing else changes."""

from itertools import combinations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.signed_pairs import split_quantizers
from tests.graph.graph_sketch import LEVELS, Sketch, counted, executed, results


def forked(kind: type, *, decoders: int = 1, ahead: str = "Relu") -> gs.Graph:
    """Two layers that read the codes of one tensor, from one DQ or from one each."""
    draw = Sketch(1, 4, 6, 6)
    x = draw.x
    if ahead == "Conv":
        x = draw.integer_conv(draw.pair(x, "in", 0.05, kind=kind), 4, 4, 1, 1, input_scale=0.05)
    elif ahead == "MaxPool":
        x = draw.node("MaxPool", draw.pair(x, "in", 0.05, kind=kind), kernel_shape=[2, 2])
    else:
        x = draw.node(ahead, x)
    values = [draw.pair(x, "mid", 0.05, kind=kind)]
    if decoders == 2:
        values.append(gs.Variable("twin", np.float32))
        inputs = list(values[0].inputs[0].inputs)
        draw.graph.nodes.append(gs.Node("DequantizeLinear", "twin", {}, inputs, [values[1]]))
    layers = [draw.integer_conv(values[-index], 16, 4, 1, 1, input_scale=0.05) for index in (0, 1)]
    pairs = [draw.pair(each, f"y{i}", 0.1, kind=kind) for i, each in enumerate(layers)]
    return draw.done(*(draw.node("Neg", each) for each in pairs))


def quantizers(graph: gs.Graph) -> list[gs.Node]:
    return [each for each in graph.nodes if each.op == "QuantizeLinear"]


@pytest.mark.parametrize("decoders", [1, 2])
@pytest.mark.parametrize("ahead", ["Relu", "Exp", "Conv", "MaxPool"])
def test_layers_behind_a_shared_q_run_in_integers_once_each_has_its_own(
    ahead: str, decoders: int
) -> None:
    graph = forked(np.int8, decoders=decoders, ahead=ahead)
    layers = 3 if ahead == "Conv" else 2
    assert executed(graph)["QLinearConv"] < layers
    assert counted(graph, split_quantizers) == 1
    assert executed(graph)["QLinearConv"] == layers


def test_every_decoded_tensor_has_one_reader_and_every_q_one_dq() -> None:
    graph = forked(np.int8, decoders=2)
    split_quantizers(graph)
    graph.cleanup()
    for each in quantizers(graph):
        (decoder,) = each.outputs[0].outputs
        assert len(decoder.outputs[0].outputs) == 1


def test_no_two_q_of_a_tensor_share_an_initializer() -> None:
    graph = forked(np.int8)
    split_quantizers(graph)
    for one, other in combinations(quantizers(graph), 2):
        names = {each.name for each in one.inputs[1:]}
        assert names.isdisjoint(each.name for each in other.inputs[1:])


@pytest.mark.parametrize("ahead", ["Conv", "MaxPool"])
def test_what_computes_or_moves_codes_still_meets_one_q(ahead: str) -> None:
    graph = forked(np.int8, ahead=ahead)
    split_quantizers(graph)
    made = next(each for each in graph.nodes if each.op == ahead).outputs[0]
    assert [each.op for each in made.outputs] == ["QuantizeLinear"]
    assert executed(graph)["Sum"] == 1
    assert not executed(graph).keys() & {"Conv", "FusedConv"}


def test_uint8_codes_and_codes_with_one_reader_are_left_alone() -> None:
    assert counted(forked(np.uint8), split_quantizers) == 0
    draw = Sketch(1, 4, 6, 6)
    x = draw.pair(draw.x, "mid", 0.05, kind=np.int8)
    graph = draw.done(draw.node("Neg", draw.integer_conv(x, 16, 4, 1, 1)))
    assert counted(graph, split_quantizers) == 0


def test_what_leaves_the_graph_is_a_reader_too_and_keeps_its_name() -> None:
    draw = Sketch(1, 4, 6, 6)
    x = draw.pair(draw.x, "mid", 0.05, kind=np.int8)
    layer = draw.integer_conv(x, 16, 4, 1, 1, input_scale=0.05)
    graph = draw.done(x, draw.pair(layer, "y", 0.1, kind=np.int8))
    assert counted(graph, split_quantizers) == 1
    assert [each.name for each in graph.outputs] == ["mid", "y"]
    assert executed(graph)["QLinearConv"] == 1


@pytest.mark.parametrize("scale", [1e-42, 1e38])
def test_a_scale_whose_codes_would_not_come_back_is_left_alone(scale: float) -> None:
    draw = Sketch(8)
    x = draw.pair(draw.x, "mid", scale, kind=np.int8)
    graph = draw.done(draw.node("Neg", x), draw.node("Abs", x))
    assert split_quantizers(graph) == 0


def test_codes_that_something_else_reads_are_left_alone() -> None:
    graph = forked(np.int8)
    codes = quantizers(graph)[0].outputs[0]
    shape = gs.Variable("shape", np.int64, [4])
    graph.nodes.append(gs.Node("Shape", "Shape", {}, [codes], [shape]))
    graph.outputs.append(shape)
    assert split_quantizers(graph) == 0


def test_a_node_that_reads_a_tensor_twice_is_one_reader() -> None:
    draw = Sketch(8)
    x = draw.pair(draw.x, "mid", 0.05, kind=np.int8)
    assert counted(draw.done(draw.node("Mul", x, x)), split_quantizers) == 0


def test_a_second_run_finds_nothing_and_integer_results_are_those_of_the_float_run() -> None:
    graph = forked(np.int8, ahead="Conv")
    before = results(graph)
    assert (split_quantizers(graph), split_quantizers(graph)) == (1, 0)
    for first, second in zip(before, results(graph, LEVELS.ORT_ENABLE_ALL), strict=True):
        assert np.abs(first - second).max() <= 0.1 + 1e-6  # a step where a tie was rounded
