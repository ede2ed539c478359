import numpy as np
import pytest

from qdq.graph.speed.quantized import (
    Codes,
    constant_codes,
    give_codes,
    read_codes,
    scalar_grid,
    symmetric_weight,
)
from tests.graph.graph_sketch import Sketch

TWO = Codes(np.int8([[2]]), np.array(0.5, np.float32), np.array(0, np.int8), None)


def test_codes_are_found_behind_a_dq_with_their_axis() -> None:
    draw = Sketch(3)
    found = constant_codes(draw.weight("w", np.ones((2, 3)), [0.1, 0.2, 0.3], 1))
    assert found is not None
    assert (found.axis, found.scale.shape, found.values.shape) == (1, (3,), (2, 3))
    assert constant_codes(draw.pair(draw.x, "in")) is None
    assert constant_codes(draw.x) is None


@pytest.mark.parametrize(("axis", "point", "wanted"), [(0, 0, True), (1, 0, False), (0, 3, False)])
def test_a_weight_is_symmetric_with_scales_of_the_channels_out(
    axis: int, point: int, wanted: bool
) -> None:
    draw = Sketch(1, 2, 4, 4)
    conv = draw.integer_conv(draw.x, 2, 2, 1, 1).inputs[0]
    node = conv.inputs[1].inputs[0]
    node.attrs["axis"] = axis
    node.inputs[2].values = np.full(2, point, np.int8)
    assert (symmetric_weight(conv) is not None) == wanted


def test_a_grid_of_floats_is_none() -> None:
    draw = Sketch(3)
    draw.pair(draw.x, "in", 0.5, 7)
    quantize = draw.graph.nodes[0]
    grid = scalar_grid(quantize)
    assert grid is not None
    assert grid == (np.float32(0.5), np.uint8(7))
    quantize.inputs[1].values = np.float16(0.5).reshape(())
    assert scalar_grid(quantize) is None
    assert scalar_grid(None) is None


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_that_is_none_makes_no_grid(scale: float) -> None:
    draw = Sketch(3)
    draw.pair(draw.x, "in", scale)
    assert scalar_grid(draw.graph.nodes[0]) is None


def test_new_codes_take_the_names_that_are_free() -> None:
    draw = Sketch(1, 1)
    weight = draw.weight("w", [[1]], 0.1)
    products = [draw.node("MatMul", draw.x, weight).inputs[0] for _ in range(2)]
    give_codes(draw.graph, products[0], 1, TWO)
    give_codes(draw.graph, products[1], 1, TWO)
    assert [each.inputs[1].name for each in products] == ["w/MatMul_0.out", "w"]
    names = [each.inputs[1].inputs[0].inputs[0].name for each in products]
    assert names == ["w/MatMul_0.out.codes", "w.codes"]


def test_a_twin_dq_keeps_the_constants_and_their_names() -> None:
    draw = Sketch(1, 1)
    first, second = draw.weight("a", [[1]], 0.1), draw.weight("b", [[1]], 0.1)
    second.inputs[0].inputs = list(first.inputs[0].inputs)
    product = draw.node("MatMul", draw.x, first).inputs[0]
    draw.done(draw.node("MatMul", product.outputs[0], second))
    give_codes(draw.graph, product, 1, TWO)
    names = draw.graph.cleanup().tensors()  # refuses two tensors of one name
    assert {"a", "b", "a.codes", "a/MatMul_0.out.codes"} <= set(names)


def test_other_readers_keep_the_old_values() -> None:
    draw = Sketch(1, 1)
    x = draw.pair(draw.x, "in", 0.5, 7)
    readers = [draw.node("Neg", x).inputs[0] for _ in range(2)]
    before = x.inputs[0]
    read_codes(draw.graph, readers[0], before.inputs[0], before)
    assert [each.inputs[0].name for each in readers] == ["in/Neg_0.out", "in"]
    read_codes(draw.graph, readers[1], before.inputs[0], before)
    assert readers[1].inputs[0].name == "in"
    assert before not in draw.graph.nodes
