"""Taking pairs out: what they said is kept, and what they did to values that matter stays done."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.retargeting.stripping import Stripped, strip
from tests.graph.graph_sketch import Sketch, ops, results


def stripped(sketch: Sketch, *outputs: gs.Tensor, rank: int = 4) -> Stripped:
    return strip(sketch.done(*outputs, rank=rank))


def kernel(sketch: Sketch) -> gs.Tensor:
    return sketch.weight("c.weight", [[[[1, -2], [3, 4]]]], 0.5)


def test_a_pair_goes_and_its_grid_is_known_of_tensor_and_reader() -> None:
    sketch = Sketch(1, 1, 4, 4)
    found = stripped(sketch, sketch.conv(sketch.pair(sketch.x, "c.input", 0.25), kernel(sketch)))
    assert ops(found.graph) == {"Conv": 1}
    conv = found.graph.nodes[0]
    seen = found.edges[id(conv), 0]
    assert (seen.site, str(seen.grid)) == ("c.input", "uint8, zero point 0, step 0.25")
    assert found.tensors["x"].grid == seen.grid
    np.testing.assert_array_equal(conv.inputs[1].values.ravel(), [0.5, -1.0, 1.5, 2.0])
    assert found.constants[conv.inputs[1].name].codes.dtype == np.int8
    assert [loss.what for loss in found.losses] == ["clamp"]  # x below 0 was read as 0


def test_where_a_pair_was_the_relu_a_relu_takes_its_place() -> None:
    sketch = Sketch(1, 1, 4, 4)
    clamped = sketch.pair(sketch.conv(sketch.x), "b.input")
    found = stripped(sketch, sketch.conv(clamped))
    assert ops(found.graph) == {"Conv": 2, "Relu": 1}
    assert not found.losses


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Softmax"])
def test_where_nothing_is_negative_none_is_needed(op: str) -> None:
    sketch = Sketch(1, 1, 4, 4)
    found = stripped(sketch, sketch.conv(sketch.pair(sketch.node(op, sketch.x), "b.input")))
    assert ops(found.graph) == {"Conv": 1, op: 1}


def test_what_moved_codes_moves_values() -> None:
    sketch = Sketch(1, 1, 4, 4)
    scale, point = sketch.constant("s", np.float32(0.1)), sketch.constant("z", np.uint8(100))
    codes = sketch.node("QuantizeLinear", sketch.x, scale, point, out=np.uint8)
    pads = sketch.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    padded = sketch.node("Pad", codes, pads, sketch.constant("v", np.uint8(110)), out=np.uint8)
    limits = sketch.constant("low", np.uint8(90)), sketch.constant("high", np.uint8(120))
    clipped = sketch.node("Clip", padded, *limits, out=np.uint8)
    graph = sketch.done(sketch.node("DequantizeLinear", clipped, scale, point), rank=4)
    before = results(graph)[0]
    found = strip(graph)
    assert ops(found.graph) == {"Pad": 1, "Clip": 1}
    after = results(found.graph)[0]
    assert float(np.abs(before - after).max()) <= 0.05 + 1e-6  # half a step
    assert after[0, 0, 0, 0] == np.float32(1.0)


@pytest.mark.parametrize(
    ("scale", "point", "why"),
    [
        (np.float32([0.1]), np.int16([0]), "its grid is none of one constant scale"),
        (np.full(4, 0.1, np.float32), np.zeros(4, np.int8), "its grid is none of one constant"),
        (np.float32(0), np.int8(0), "its grid is none of one constant scale"),
    ],
)
def test_pairs_on_other_grids_stay_and_are_named(scale: Any, point: Any, why: str) -> None:
    sketch = Sketch(1, 1, 4, 4)
    operands = sketch.constant("s", scale), sketch.constant("z", point)
    codes = sketch.node("QuantizeLinear", sketch.x, *operands, axis=2)
    found = stripped(sketch, sketch.node("DequantizeLinear", codes, *operands, axis=2))
    assert ops(found.graph) == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert found.losses[0].what == "pair"
    assert why in found.losses[0].why


def test_codes_that_something_else_reads_stay() -> None:
    sketch = Sketch(1, 1, 4, 4)
    operands = sketch.constant("s", np.float32(0.1)), sketch.constant("z", np.uint8(0))
    codes = sketch.node("QuantizeLinear", sketch.x, *operands, out=np.uint8)
    wide = sketch.node("Cast", codes, to=1)
    found = stripped(sketch, sketch.node("DequantizeLinear", codes, *operands), wide)
    assert found.losses[0].why == "Cast reads its codes: it stays as it is"


def test_a_pair_on_an_output_leaves_its_name() -> None:
    sketch = Sketch(1, 1, 4, 4)
    result = sketch.pair(sketch.conv(sketch.x), "y", point=128)
    found = stripped(sketch, result)
    assert [each.name for each in found.graph.outputs] == ["y"]
    assert ops(found.graph) == {"Conv": 1}
    sketch = Sketch(1, 1, 4, 4)
    found = stripped(sketch, sketch.pair(sketch.x, "y", point=128))
    assert ops(found.graph) == {"Identity": 1}


def test_a_float_weight_with_a_pair_is_as_good_as_codes() -> None:
    sketch = Sketch(1, 1, 4, 4)
    operands = sketch.constant("s", np.float32([0.5])), sketch.constant("z", np.int8([0]))
    values = sketch.constant("w", np.float32([[[[0.6, -1.0], [63.0, 99.0]]]]))
    codes = sketch.node("QuantizeLinear", values, *operands, out=np.int8, axis=0)
    weight = sketch.node("DequantizeLinear", codes, *operands, axis=0)
    found = stripped(sketch, sketch.conv(sketch.x, weight))
    held = found.constants[found.graph.nodes[0].inputs[1].name]
    np.testing.assert_array_equal(held.codes.ravel(), [1, -2, 126, 127])


def test_a_convolution_that_picks_pixels_becomes_slice_and_pad() -> None:
    sketch = Sketch(1, 2, 4, 4)
    codes = np.zeros((4, 2, 1, 1), np.int8)
    codes[1, 0], codes[2, 1] = 1, 1
    x = sketch.node("Relu", sketch.x)
    weight = sketch.weight("p.weight", codes, 1.0)
    picked = sketch.node("Conv", x, weight, kernel_shape=[1, 1], strides=[2, 2])
    graph = sketch.done(sketch.node("Relu", picked), rank=4)
    before = results(graph)[0]
    found = strip(graph)
    assert {"Slice": 1, "Pad": 1}.items() <= dict(ops(found.graph)).items()
    assert "Conv" not in ops(found.graph)
    np.testing.assert_array_equal(results(found.graph)[0], before)


def test_channels_of_zeros_in_front_of_a_convolution_go() -> None:
    sketch = Sketch(1, 3, 4, 4)
    pads = sketch.constant("pads", np.array([0, 0, 0, 0, 0, 1, 0, 0]))
    codes = np.random.default_rng(0).integers(-9, 9, (2, 4, 2, 2)).astype(np.int8)
    codes[:, 3] = 0
    padded = sketch.node("Pad", sketch.x, pads)
    graph = sketch.done(sketch.conv(padded, sketch.weight("c.weight", codes, 0.5)), rank=4)
    before = results(graph)[0]
    found = strip(graph)
    assert ops(found.graph) == {"Conv": 1}
    np.testing.assert_allclose(results(found.graph)[0], before, rtol=1e-6)
