from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.constants import fold_constants
from tests.graph.graph_sketch import Sketch, counted, ops


def integers(draw: Sketch, op: str, *inputs: gs.Tensor, **attrs: Any) -> gs.Tensor:
    return draw.node(op, *inputs, out=np.int64, **attrs)


def held(draw: Sketch, *values: int, scalar: bool = False) -> gs.Constant:
    number = sum(1 for each in draw.graph.tensors().values() if isinstance(each, gs.Constant))
    array = np.int64(values)
    return draw.constant(f"c{number}_{values}", array.reshape(()) if scalar else array)


def size(draw: Sketch, x: gs.Tensor, axis: int) -> gs.Tensor:
    """One size of a tensor as exporters ask for it."""
    picked = integers(draw, "Gather", integers(draw, "Shape", x), held(draw, axis, scalar=True))
    return integers(draw, "Unsqueeze", picked, held(draw, 0))


def test_pads_that_an_exporter_computes_become_numbers() -> None:
    draw = Sketch(1, 2, 4, 4)
    zeros = integers(draw, "ConstantOfShape", held(draw, 4), value=held(draw, 0))
    pads = integers(draw, "Concat", held(draw, 0, 1, 0, 1), zeros, axis=0)
    turned = integers(draw, "Transpose", integers(draw, "Reshape", pads, held(draw, -1, 2)))
    order = integers(draw, "Reshape", turned, held(draw, -1))
    pads = integers(draw, "Cast", order, to=7)
    graph = draw.done(draw.node("Pad", draw.x, pads), rank=4)
    assert counted(graph, fold_constants) == 6
    assert ops(graph) == {"Pad": 1}


def test_heads_are_split_by_numbers_where_only_the_batch_is_unknown() -> None:
    draw = Sketch("batch", 6, 8)
    heads = integers(draw, "Div", size(draw, draw.x, 2), held(draw, 2))
    sizes = [size(draw, draw.x, 0), size(draw, draw.x, 1), held(draw, 2), heads]
    split = draw.node("Reshape", draw.x, integers(draw, "Concat", *sizes, axis=0))
    turned = draw.node("Transpose", split, perm=[0, 2, 1, 3])
    leading = integers(draw, "Slice", integers(draw, "Shape", turned), held(draw, 0), held(draw, 2))
    joined = integers(draw, "Concat", leading, held(draw, -1), axis=0)
    graph = draw.done(draw.node("Reshape", turned, joined), rank=3)
    counted(graph, fold_constants, sizes={"batch": 3})
    assert ops(graph) == {"Reshape": 2, "Transpose": 1}
    shapes = [node.inputs[1].values.tolist() for node in graph.nodes if node.op == "Reshape"]
    assert shapes == [[-1, 6, 2, 4], [-1, 2, 24]]


@pytest.mark.parametrize("sizes", [("batch", "length", 8), ("batch", "batch", 8)])
def test_what_depends_on_two_unknown_sizes_is_left_to_compute(sizes: tuple[str | int, ...]) -> None:
    draw = Sketch(*sizes)
    shape = [size(draw, draw.x, 0), size(draw, draw.x, 1), held(draw, 2, 4)]
    shape = [integers(draw, "Concat", *shape, axis=0)]
    graph = draw.done(draw.node("Reshape", draw.x, *shape), rank=4)
    counted(graph, fold_constants, sizes={"batch": 3, "length": 3})
    assert not isinstance(graph.nodes[-1].inputs[1], gs.Constant)


def test_arithmetic_with_an_unknown_size_is_left_to_compute() -> None:
    draw = Sketch("batch", 4)
    doubled = integers(draw, "Mul", size(draw, draw.x, 0), held(draw, 2))
    shape = integers(draw, "Concat", doubled, held(draw, 2), axis=0)
    graph = draw.done(draw.node("Reshape", draw.x, shape), rank=2)
    counted(graph, fold_constants, sizes={"batch": 3})
    assert ops(graph)["Mul"] == 1


def test_an_unknown_size_is_not_made_a_truth_value() -> None:
    draw = Sketch("batch", 4)
    graph = draw.done(draw.node("Cast", draw.node("Shape", draw.x, out=np.int64), to=9))
    graph.outputs[0].dtype = np.dtype(bool)
    assert counted(graph, fold_constants, sizes={"batch": 3}) == 0


def test_what_is_an_output_or_large_stays_a_node() -> None:
    draw = Sketch(4)
    count = draw.constant("count", np.int64([100_000]))
    large = draw.node("ReduceSum", draw.node("ConstantOfShape", count), keepdims=0)
    output = draw.node("Identity", draw.constant("one", np.float32([1, 2])))
    graph = draw.done(draw.node("Add", draw.x, large), output)
    assert counted(graph, fold_constants) == 0


def test_zeros_and_ones_of_a_hostile_size_are_not_made() -> None:
    draw = Sketch(4)
    rows = draw.constant("rows", np.int64([2**40, 2**40]))
    whole = draw.node("ReduceMax", draw.node("ConstantOfShape", rows), keepdims=0)
    graph = draw.done(draw.node("Add", draw.x, whole))
    assert fold_constants(graph) == 0
