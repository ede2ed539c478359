from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.widths import pad_channels
from tests.graph.graph_sketch import LEVELS, Sketch, counted

INTEGER = LEVELS.ORT_ENABLE_ALL


def conv(draw: Sketch, x: gs.Tensor, *shape: int, site: str, **attrs: Any) -> gs.Tensor:
    return draw.pair(draw.integer_conv(x, *shape, **attrs), site, 0.1, 100)


def shapes(graph: gs.Graph) -> list[tuple[int, ...]]:
    return [tuple(node.inputs[1].shape) for node in graph.nodes if node.op == "Conv"]


@pytest.mark.parametrize(("width", "wanted"), [(10, 16), (18, 20), (30, 32), (17, 20)])
@pytest.mark.parametrize("bias", ["int32", "float", "none"])
def test_channels_between_two_convolutions_become_multiples_of_four_and_sixteen_at_least(
    width: int, wanted: int, bias: str
) -> None:
    draw = Sketch("batch", 8, 6, 6)
    x = conv(draw, draw.pair(draw.x, "in", 0.1, 100), width, 8, 3, 3, site="middle", bias=bias)
    graph = draw.done(conv(draw, x, 12, width, 1, 1, site="out", bias=bias))
    assert counted(graph, pad_channels, level=INTEGER, sizes={"batch": 2}) == 1
    assert shapes(graph) == [(wanted, 8, 3, 3), (12, wanted, 1, 1)]


@pytest.mark.parametrize(("width", "wanted"), [(8, 16), (24, 32), (72, 80)])
def test_a_depthwise_convolution_among_them_asks_for_multiples_of_sixteen(
    width: int, wanted: int
) -> None:
    draw = Sketch(1, 8, 6, 6)
    x = conv(draw, draw.pair(draw.x, "in", 0.1, 100), width, 8, 1, 1, site="wide")
    x = conv(draw, x, width, 1, 3, 3, site="deep", group=width, pads=[1] * 4)
    graph = draw.done(conv(draw, x, 12, width, 1, 1, site="out"))
    assert counted(graph, pad_channels, level=INTEGER) == 1
    assert shapes(graph) == [(wanted, 8, 1, 1), (wanted, 1, 3, 3), (12, wanted, 1, 1)]


def test_both_sides_of_a_residual_addition_are_padded_alike() -> None:
    draw = Sketch(1, 8, 6, 6)
    x = conv(draw, draw.pair(draw.x, "in", 0.1, 100), 10, 8, 1, 1, site="left")
    y = conv(draw, x, 10, 10, 3, 3, site="right", pads=[1] * 4)
    total = draw.pair(draw.node("Add", x, y), "sum", 0.2, 100)
    pooled = draw.node("MaxPool", total, kernel_shape=[2, 2])
    graph = draw.done(conv(draw, pooled, 4, 10, 1, 1, site="out"))
    assert counted(graph, pad_channels, level=INTEGER) == 1
    assert shapes(graph) == [(16, 8, 1, 1), (16, 16, 3, 3), (4, 16, 1, 1)]


def test_a_weight_that_two_convolutions_share_is_padded_for_each() -> None:
    draw = Sketch(1, 10, 6, 6)
    x = draw.pair(draw.x, "in", 0.1, 100)
    x = conv(draw, x, 10, 10, 1, 1, site="first", bias="none")
    weight = draw.graph.nodes[-3].inputs[1]
    x = draw.pair(draw.node("Conv", x, weight), "second", 0.1, 100)
    graph = draw.done(draw.pair(draw.node("Conv", x, weight), "third", 0.1, 100))
    assert counted(graph, pad_channels, level=INTEGER) == 2
    assert shapes(graph) == [(16, 10, 1, 1), (16, 16, 1, 1), (10, 16, 1, 1)]


def stays(kind: str) -> gs.Graph:
    """Channels that cannot be padded, or that need not be."""
    width = {"aligned": 20, "few": 6}.get(kind, 10)
    draw = Sketch(1, 10 if kind == "input" else 8, 6, 6)
    x = draw.pair(draw.x, "in", 0.1, 100)
    if kind != "input":
        x = conv(draw, x, width, 8, 1, 1, site="made")
    outputs = [draw.node("Neg", x)] if kind == "float" else [x] if kind == "output" else []
    if kind == "softmax":
        x = draw.pair(draw.node("Softmax", x, axis=1), "soft", 0.1)
    if kind == "grouped":
        return draw.done(conv(draw, x, 10, 5, 1, 1, site="out", group=2))
    return draw.done(conv(draw, x, 12, width, 1, 1, site="out"), *outputs)


@pytest.mark.parametrize(
    "kind", ["aligned", "few", "input", "float", "output", "softmax", "grouped"]
)
def test_other_channels_stay(kind: str) -> None:
    assert counted(stays(kind), pad_channels, level=INTEGER) == 0


def test_what_ties_one_side_of_an_addition_ties_the_other() -> None:
    draw = Sketch(1, 8, 6, 6)
    x = draw.pair(draw.x, "in", 0.1, 100)
    left = conv(draw, x, 10, 8, 1, 1, site="left")
    read = draw.node("Neg", left)  # stands before the addition
    right = conv(draw, x, 10, 8, 1, 1, site="right")
    total = draw.pair(draw.node("Add", left, right), "sum", 0.2, 100)
    graph = draw.done(conv(draw, total, 12, 10, 1, 1, site="out"), read)
    assert counted(graph, pad_channels, level=INTEGER) == 0


def test_a_gate_of_one_pixel_is_no_residual_addition() -> None:
    draw = Sketch(1, 8, 6, 6)
    x = conv(draw, draw.pair(draw.x, "in", 0.1, 100), 10, 8, 1, 1, site="made")
    column = draw.pair(draw.constant("c", np.ones((10, 1, 1), np.float32)), "column")
    total = draw.pair(draw.node("Add", x, column), "sum", 0.2, 100)
    graph = draw.done(conv(draw, total, 12, 10, 1, 1, site="out"))
    assert counted(graph, pad_channels, level=INTEGER) == 0
