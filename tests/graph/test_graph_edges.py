import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.edges import (
    infer_shapes,
    is_output,
    made_by,
    maker_of,
    only_reader,
    read_instead,
    values_of,
)
from tests.graph.graph_sketch import Sketch


def test_who_makes_and_who_reads_a_tensor() -> None:
    draw = Sketch(4)
    half = draw.node("Neg", draw.x)
    graph = draw.done(draw.node("Abs", half))
    assert maker_of(draw.x) is None
    assert maker_of(half) is graph.nodes[0]
    assert made_by(half, "Abs", "Neg") is graph.nodes[0]
    assert made_by(half, "Abs") is None
    assert only_reader(graph, half) is graph.nodes[1]
    assert is_output(graph, graph.outputs[0])
    assert not is_output(graph, gs.Variable(graph.outputs[0].name))


@pytest.mark.parametrize("other", ["twice", "reader", "output"])
def test_a_tensor_that_is_read_more_than_once_has_no_only_reader(other: str) -> None:
    draw = Sketch(4)
    half = draw.node("Neg", draw.x)
    more = {"reader": [draw.node("Abs", half)], "output": [half], "twice": []}
    total = draw.node("Add", half, half if other == "twice" else draw.x)
    assert only_reader(draw.done(total, *more[other]), half) is None


def test_readers_are_moved_to_another_tensor_at_every_place() -> None:
    draw = Sketch(4)
    half = draw.node("Neg", draw.x)
    total = draw.node("Add", half, half)
    read_instead(half, draw.x)
    assert [each.name for each in maker_of(total).inputs] == ["x", "x"]
    assert not half.outputs


def test_values_of_an_input_that_is_left_out_or_computed_are_none() -> None:
    draw = Sketch(4)
    low = draw.constant("low", np.float32(0))
    clip = maker_of(draw.node("Clip", draw.x, low, gs.Variable.empty()))
    assert values_of(clip, 1) == 0
    assert [values_of(clip, index) for index in (0, 2, 3)] == [None] * 3


def test_shapes_follow_from_the_inputs_with_names_for_what_is_not_known() -> None:
    draw = Sketch("batch", 3, 8, 8)
    x = draw.pair(draw.x, "in")
    convolved = draw.integer_conv(x, 5, 3, 3, 3)
    convolved.shape = [1, 2, 3, 4]  # noted by somebody, and wrong
    graph = draw.done(draw.node("Neg", convolved))
    weights = [each for each in graph.tensors().values() if isinstance(each, gs.Constant)]
    before = {each.name: each.values.copy() for each in weights}
    infer_shapes(graph)
    assert convolved.shape == ["batch", 5, 6, 6]
    assert x.inputs[0].inputs[0].dtype == np.uint8
    assert x.shape == ["batch", 3, 8, 8]
    for each in weights:
        np.testing.assert_array_equal(each.values, before[each.name])


def test_a_shape_that_does_not_follow_is_none() -> None:
    draw = Sketch(2, 8)
    shape = draw.input("shape", 2)
    shape.dtype = np.dtype(np.int64)
    reshaped = draw.node("Reshape", draw.x, shape)
    wide = draw.node("Tile", reshaped, draw.node("Shape", reshaped, out=np.int64))
    infer_shapes(draw.done(draw.node("Neg", wide)))
    assert wide.shape is None or not any(isinstance(each, int) for each in wide.shape)
