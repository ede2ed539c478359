from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.stem_padding import pad_stem
from tests.graph.graph_sketch import LEVELS, Sketch, counted, ops

INTEGER = LEVELS.ORT_ENABLE_ALL


def stem(channels: int = 3, outputs: int = 16, kind: Any = np.uint8, **attrs: Any) -> gs.Graph:
    draw = Sketch("batch", channels, "height", 9)
    x = draw.pair(draw.x, "in", 0.1, 100, kind)
    inputs = channels // attrs.get("group", 1)
    return draw.done(draw.pair(draw.integer_conv(x, outputs, inputs, 3, 3, **attrs), "out", 0.5))


@pytest.mark.parametrize("channels", [3, 7])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("bias", ["int32", "float", "none"])
def test_one_more_channel_of_zeros_changes_no_sum(channels: int, kind: Any, bias: str) -> None:
    graph = stem(channels, kind=kind, bias=bias, strides=[2, 2], pads=[1, 1, 1, 1])
    assert counted(graph, pad_stem, level=INTEGER, sizes={"batch": 2, "height": 8}) == 1
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert conv.inputs[1].shape == (16, channels + 1, 3, 3)
    assert [each.name for each in conv.inputs[:2]] == ["in", "conv_0.weight"]


def test_others_still_read_the_image_without_it() -> None:
    draw = Sketch(1, 3, 9, 9)
    x = draw.pair(draw.x, "in", 0.1, 100)
    convolved = draw.pair(draw.integer_conv(x, 16, 3, 3, 3), "out", 0.5)
    graph = draw.done(convolved, draw.node("Neg", x))
    assert counted(graph, pad_stem, level=INTEGER) == 1
    assert [node.op for node in graph.nodes if node.op == "Pad"] == ["Pad"]


@pytest.mark.parametrize(
    ("channels", "outputs", "attrs"),
    [(4, 16, {}), (2, 16, {}), (1, 16, {}), (3, 8, {}), (3, 18, {}), (3, 18, {"group": 3})],
)
def test_where_it_would_not_pay_nothing_is_done(
    channels: int, outputs: int, attrs: dict[str, int]
) -> None:
    graph = stem(channels, outputs, **attrs)
    assert counted(graph, pad_stem, level=INTEGER, sizes={"batch": 1, "height": 5}) == 0


def test_a_float_convolution_stays() -> None:
    draw = Sketch(1, 3, 9, 9)
    weight = draw.constant("w", np.ones((16, 3, 3, 3), np.float32))
    graph = draw.done(draw.node("Conv", draw.pair(draw.x, "in"), weight))
    assert counted(graph, pad_stem) == 0
    assert "Pad" not in ops(graph)
