from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.graph.speed.stem_depth import block_stem
from tests.graph.graph_sketch import LEVELS, Sketch, counted, ops

INTEGER = LEVELS.ORT_ENABLE_ALL


def stem(
    *kernel: int,
    size: tuple[int | str, ...] = ("batch", 3, 12, 16),
    kind: Any = np.uint8,
    **attrs: Any,
) -> gs.Graph:
    draw = Sketch(*size)
    channels = size[1] if isinstance(size[1], int) else 3
    x = draw.pair(draw.x, "in", 0.1, 100, kind)
    attrs = {"strides": [2, 2]} | attrs
    inputs = channels // attrs.get("group", 1)
    return draw.done(draw.pair(draw.integer_conv(x, 16, inputs, *kernel, **attrs), "out", 0.7, 120))


@given(
    kernel=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
@settings(max_examples=20, deadline=None)
def test_every_weight_meets_the_pixel_it_met(kernel: tuple[int, int], pads: list[int]) -> None:
    graph = stem(*kernel, pads=pads)
    count = counted(graph, block_stem, level=INTEGER, sizes={"batch": 2})
    assert count == 1 or min(pads[2:]) == 0  # else a kernel may look less far than its blocks
    assert ops(graph)["SpaceToDepth"] == count


def test_seven_by_seven_becomes_four_by_four() -> None:
    graph = stem(7, 7, pads=[3, 3, 3, 3])
    assert counted(graph, block_stem, level=INTEGER, sizes={"batch": 1}) == 1
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert conv.inputs[1].shape == (16, 12, 4, 4)
    assert conv.attrs == {"kernel_shape": [4, 4], "strides": [1, 1], "pads": [2, 2, 1, 1]}
    assert [each.name for each in conv.inputs] == ["in", "conv_0.weight", "conv_0.bias"]


@pytest.mark.parametrize(
    "size",
    [(1, 3, 11, 12), (1, 3, 12, "width"), (1, 4, 12, 12), (1, 16, 12, 12)],
    ids=["odd", "unknown", "aligned", "wide"],
)
def test_images_that_are_not_in_blocks_or_not_thin_stay(size: tuple[int | str, ...]) -> None:
    graph = stem(7, 7, size=size)
    assert counted(graph, block_stem, level=INTEGER, sizes={"width": 12}) == 0


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": [1, 1]},
        {"strides": [2, 1]},
        {"dilations": [2, 2], "pads": [3] * 4},
        {"auto_pad": "SAME_UPPER"},
    ],
    ids=["stride", "one_stride", "dilation", "auto_pad"],
)
def test_convolutions_of_another_kind_stay(attrs: dict[str, Any]) -> None:
    graph = stem(5, 5, **attrs)
    assert counted(graph, block_stem, level=INTEGER, sizes={"batch": 1}) == 0


def test_small_kernels_stay() -> None:
    assert counted(stem(3, 3), block_stem, level=INTEGER, sizes={"batch": 1}) == 0


def test_signed_codes_stay() -> None:
    graph = stem(7, 7, kind=np.int8)
    assert counted(graph, block_stem, level=INTEGER, sizes={"batch": 1}) == 0
