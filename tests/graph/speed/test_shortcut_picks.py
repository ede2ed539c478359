from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.graph.speed.shortcut_picks import pick_by_convolution
from tests.graph.graph_sketch import LEVELS, Sketch, counted, executed, ops

END = 2**31 - 1


def sliced(
    draw: Sketch, x: gs.Tensor, axes: list[int], steps: list[int], start: int = 0, end: int = END
) -> gs.Tensor:
    values = ([start] * len(axes), [end] * len(axes), axes, steps)
    names = [f"{word}_{x.name}" for word in ("starts", "ends", "axes", "steps")]
    operands = [draw.constant(n, np.int64(v)) for n, v in zip(names, values, strict=True)]
    return draw.node("Slice", x, *operands)


def widened(draw: Sketch, x: gs.Tensor, before: int, behind: int, **attrs: Any) -> gs.Tensor:
    pads = draw.constant(f"pads_{x.name}", np.int64([0, before, 0, 0, 0, behind, 0, 0]))
    return draw.node("Pad", x, pads, **attrs)


def shortcut(steps: list[int], before: int, behind: int, **grid: float) -> gs.Graph:
    draw = Sketch("batch", 16, 9, 8)
    x = sliced(draw, draw.pair(draw.x, "in", grid.get("into", 0.03), 77), [2, 3], steps)
    return draw.done(draw.pair(widened(draw, x, before, behind), "out", grid.get("out", 0.05), 60))


@given(
    steps=st.lists(st.integers(1, 3), min_size=2, max_size=2),
    pads=st.sampled_from([(4, 4), (0, 16), (8, 0), (0, 0)]),
    into=st.floats(0.01, 0.1),
    out=st.floats(0.01, 0.1),
)
@settings(max_examples=15, deadline=None)
def test_any_picking_of_pixels_is_a_convolution(
    steps: list[int], pads: tuple[int, int], into: float, out: float
) -> None:
    for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL):
        graph = shortcut(steps, *pads, into=into, out=out)
        counted(graph, pick_by_convolution, level=level, sizes={"batch": 2})


def test_the_shortcut_of_a_cifar_resnet_runs_in_integers() -> None:
    graph = shortcut([2, 2], 8, 8)
    assert executed(graph)["QLinearConv"] == 0
    assert counted(graph, pick_by_convolution, sizes={"batch": 3}) == 1
    wanted = {"QuantizeLinear": 2, "DequantizeLinear": 3, "Conv": 1}
    assert ops(graph) == wanted
    assert executed(graph)["QLinearConv"] == 1


def test_two_slices_in_a_row_are_one_stride_each() -> None:
    draw = Sketch(1, 16, 9, 9)
    x = draw.pair(draw.x, "in", 0.03)
    for axis in (2, -1):
        x = sliced(draw, x, [axis], [2])
    graph = draw.done(draw.pair(widened(draw, x, 8, 8), "out", 0.05))
    assert counted(graph, pick_by_convolution) == 1


def test_grids_between_which_one_multiplication_rounds_otherwise_are_left_alone() -> None:
    into, out = np.float32(0.5 / 3), np.float32(1 / 3)
    steps = np.arange(-77, 179, dtype=np.float32)
    assert np.any(np.rint(steps * (into / out)) != np.rint(steps * into / out))
    graph = shortcut([2, 2], 8, 8, into=float(into), out=float(out))
    assert counted(graph, pick_by_convolution, sizes={"batch": 1}) == 0


def other(draw: Sketch, kind: str) -> gs.Tensor:
    """A shortcut that is not of this form."""
    x = draw.pair(draw.x, "in", 0.03)
    if kind == "start":
        return widened(draw, sliced(draw, x, [2, 3], [2, 2], start=1), 8, 8)
    if kind == "end":
        return widened(draw, sliced(draw, x, [2, 3], [2, 2], end=4), 8, 8)
    if kind == "channels":
        return sliced(draw, x, [1], [2])
    if kind == "reflect":
        return widened(draw, sliced(draw, x, [2, 3], [2, 2]), 8, 8, mode="reflect")
    if kind == "wide":
        return widened(draw, sliced(draw, x, [2, 3], [2, 2]), 128, 128)
    if kind == "uneven":
        return widened(draw, sliced(draw, x, [2, 3], [2, 2]), 1, 0)
    return sliced(draw, draw.node("Neg", draw.x), [2, 3], [2, 2])  # not behind a DQ


@pytest.mark.parametrize("kind", ["start", "end", "channels", "reflect", "wide", "uneven", "float"])
def test_other_ways_to_pick_stay(kind: str) -> None:
    draw = Sketch(1, 16, 8, 8)
    graph = draw.done(draw.pair(other(draw, kind), "out", 0.05))
    assert counted(graph, pick_by_convolution) == 0


def test_pixels_that_somebody_else_reads_stay() -> None:
    draw = Sketch(1, 16, 8, 8)
    x = sliced(draw, draw.pair(draw.x, "in", 0.03), [2, 3], [2, 2])
    graph = draw.done(draw.pair(widened(draw, x, 8, 8), "out", 0.05), draw.node("Neg", x))
    assert counted(graph, pick_by_convolution) == 0
