"""A tensor is said not to be negative only where no input can make it so."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.retargeting.signs import is_nonnegative
from tests.graph.graph_sketch import Sketch


def sketched() -> tuple[Sketch, gs.Tensor]:
    sketch = Sketch(1, 1, 4, 4)
    return sketch, sketch.node("Relu", sketch.x)


def test_inputs_and_convolutions_may_be_negative() -> None:
    sketch, positive = sketched()
    assert not is_nonnegative(sketch.x)
    assert not is_nonnegative(sketch.conv(positive))


@pytest.mark.parametrize("op", ["MaxPool", "Flatten", "Transpose", "GlobalAveragePool"])
def test_movers_and_pools_keep_the_sign(op: str) -> None:
    sketch, positive = sketched()
    assert is_nonnegative(sketch.node(op, positive))
    assert not is_nonnegative(sketch.node(op, sketch.x))


@pytest.mark.parametrize("op", ["Add", "Mul", "Concat"])
def test_joins_keep_it_if_both_sides_do(op: str) -> None:
    sketch, positive = sketched()
    other = sketch.node("Sigmoid", sketch.x)
    assert is_nonnegative(sketch.node(op, positive, other))
    assert not is_nonnegative(sketch.node(op, positive, sketch.x))
    assert not is_nonnegative(sketch.node(op, positive, sketch.constant("c", np.float32(-1))))
    assert is_nonnegative(sketch.node(op, positive, sketch.constant("d", np.float32(1))))


def test_a_clip_or_pad_counts_by_its_constants() -> None:
    sketch, positive = sketched()
    zero, low = sketch.constant("zero", np.float32(0)), sketch.constant("low", np.float32(-1))
    pads = sketch.constant("pads", np.zeros(8, np.int64))
    assert is_nonnegative(sketch.node("Clip", sketch.x, zero))
    assert not is_nonnegative(sketch.node("Clip", sketch.x, low))
    assert is_nonnegative(sketch.node("Clip", positive, low))
    assert is_nonnegative(sketch.node("Pad", positive, pads))
    assert not is_nonnegative(sketch.node("Pad", positive, pads, low))


def test_a_foreign_operator_of_a_known_name_proves_nothing() -> None:
    sketch, positive = sketched()
    result = sketch.node("Relu", positive)
    result.inputs[0].domain = "my.domain"
    assert not is_nonnegative(result)


def test_a_long_way_back_is_given_up() -> None:
    sketch, tensor = sketched()
    for _ in range(100):
        tensor = sketch.node("Flatten", tensor)
    assert not is_nonnegative(tensor)
