import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.norm_sums import sum_before_norm
from tests.graph.graph_sketch import Sketch, counted, executed, ops


def normalized(draw: Sketch, x: gs.Tensor, *, whole: bool) -> gs.Tensor:
    scale, bias = (draw.constant(name, np.float32(np.ones(8))) for name in ("scale", "bias"))
    if whole:
        return draw.node("LayerNormalization", x, scale, bias)
    centred = draw.node("Sub", x, draw.node("ReduceMean", x, axes=[-1]))
    square = draw.node("Pow", centred, draw.constant("two", np.float32(2)))
    variance = draw.node("ReduceMean", square, axes=[-1])
    spread = draw.node("Sqrt", draw.node("Add", variance, draw.constant("eps", np.float32(1e-5))))
    scaled = draw.node("Mul", draw.node("Div", centred, spread), scale)
    return draw.node("Add", scaled, bias)


@pytest.mark.parametrize("whole", [True, False])
def test_the_sum_before_a_normalization_is_no_longer_fused_with_it(whole: bool) -> None:
    draw = Sketch(1, 4, 8, opset=17)
    total = draw.node("Add", draw.x, draw.input("y", 1, 4, 8))
    graph = draw.done(normalized(draw, total, whole=whole))
    assert executed(graph)["SkipLayerNormalization"] == 1
    assert counted(graph, sum_before_norm) == 1
    assert executed(graph) == {"Sum": 1, "LayerNormalization": 1}


def test_other_additions_stay() -> None:
    draw = Sketch(1, 4, 8, opset=17)
    total = draw.node("Add", draw.x, draw.constant("bias", np.float32(np.ones(8))))
    graph = draw.done(draw.node("Add", normalized(draw, total, whole=True), draw.x))
    assert counted(graph, sum_before_norm) == 0
    assert ops(graph)["Add"] == 2
