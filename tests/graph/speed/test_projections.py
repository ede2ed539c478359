from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.projections import merge_projections
from tests.graph.graph_sketch import LEVELS, Sketch, executed, ops, results

STEP = 0.4  # of the sum


def block(
    *,
    stride: int = 1,
    bias: str = "int32",
    points: tuple[int, int] = (100, 100),
    kernel: int = 1,
    second: str = "",
    **attrs: Any,
) -> gs.Graph:
    """Two projections of two inputs, added; the second of them strided."""
    draw = Sketch("n", 8, 6, 6)
    y = draw.input("y", "n", 12, 6 * stride, 6 * stride)
    left = draw.integer_conv(draw.pair(draw.x, "a", 0.1, points[0]), 16, 8, 1, 1, bias=bias)
    right = draw.integer_conv(
        draw.pair(y, "b", 0.1, points[1]),
        16,
        12,
        kernel,
        kernel,
        bias=bias,
        strides=[stride] * 2,
        pads=[kernel // 2] * 4,
        **attrs,
    )
    total = draw.node("Add", draw.pair(left, "left", 0.3, 99), draw.pair(right, "right", 0.3, 99))
    read = {"": [], "Neg": [draw.node("Neg", right)] if second else [], "output": [right]}[second]
    return draw.done(draw.pair(total, "sum", STEP, 120), *read)


def exact(graph: gs.Graph) -> np.ndarray:
    """The sum without the rounding of either branch, computed in float."""
    for node in [each for each in graph.nodes if each.name.split("/")[0] in ("left", "right")]:
        if node.op == "QuantizeLinear":
            values = node.outputs[0].outputs[0].outputs[0]
            values.outputs[0].inputs = [
                node.inputs[0] if each is values else each for each in values.outputs[0].inputs
            ]
    result: np.ndarray = results(graph.cleanup(), sizes={"n": 2})[0]
    return result


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", ["int32", "float", "none"])
def test_the_merged_sum_is_within_a_step_of_the_unrounded_one(stride: int, bias: str) -> None:
    graph = block(stride=stride, bias=bias)
    assert merge_projections(graph) == 1
    merged = results(graph.cleanup().toposort(), LEVELS.ORT_ENABLE_ALL, {"n": 2})[0]
    wanted = exact(block(stride=stride, bias=bias))
    assert np.abs(merged - wanted).max() <= STEP * 1.01
    assert np.mean(merged != wanted) < 0.2
    left = executed(graph)
    assert (left["QLinearConv"], left["QLinearAdd"], left["Conv"]) == (1, 0, 0)
    assert ops(graph)["MaxPool"] == stride - 1


def test_it_is_no_worse_than_three_roundings() -> None:
    wanted, before = exact(block()), results(block(), sizes={"n": 2})[0]
    merge_projections(graph := block())
    after = results(graph.cleanup().toposort(), sizes={"n": 2})[0]
    assert np.square(after - wanted).mean() < np.square(before - wanted).mean()


@pytest.mark.parametrize(
    "other",
    [
        {"points": (100, 7)},
        {"kernel": 3},
        {"auto_pad": "SAME_UPPER"},
        {"second": "Neg"},
        {"second": "output"},
    ],
    ids=["zero_point", "kernel", "auto_pad", "reader", "output"],
)
def test_other_additions_stay(other: dict[str, Any]) -> None:
    if "auto_pad" in other:
        graph = block()
        next(each for each in graph.nodes if each.op == "Conv").attrs.update(other)
    else:
        graph = block(**other)
    assert merge_projections(graph) == 0


def test_an_addition_of_the_input_itself_stays() -> None:
    draw = Sketch(1, 8, 6, 6)
    x = draw.pair(draw.x, "in", 0.1, 100)
    made = draw.pair(draw.integer_conv(x, 8, 8, 1, 1), "made", 0.3, 99)
    assert merge_projections(draw.done(draw.pair(draw.node("Add", made, x), "sum"))) == 0
