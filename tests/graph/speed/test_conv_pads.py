import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.clamps import clamp_codes
from qdq.graph.speed.conv_pads import fold_pads
from tests.graph.graph_sketch import Sketch, counted, executed, ops


def padded(
    draw: Sketch, x: gs.Tensor, *pads: int, value: float | None = 0.0, mode: str = "constant"
) -> gs.Tensor:
    inputs = [x, draw.constant(f"pads_{x.name}", np.int64(pads))]
    inputs += [] if value is None else [draw.constant(f"value_{x.name}", np.float32(value))]
    return draw.node("Pad", *inputs, mode=mode)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 3, 0), (0, 0, 0, 0, 0, 0, 1, 1)])
@pytest.mark.parametrize("value", [0.0, None])
def test_zeros_around_an_image_become_the_convolutions_own(
    quantized: bool, pads: tuple[int, ...], value: float | None
) -> None:
    draw = Sketch(1, 3, 8, 8)
    x = padded(draw, draw.x, *pads, value=value)
    x = draw.pair(x, "in", 0.03, 100) if quantized else x
    graph = draw.done(draw.integer_conv(x, 4, 3, 3, 3, pads=[1, 0, 0, 1], strides=[2, 2]))
    assert counted(graph, fold_pads) == 1
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert "Pad" not in ops(graph)
    assert conv.attrs["pads"] == [
        1 + pads[2],
        0 + pads[3],
        0 + pads[6],
        1 + pads[7],
    ]


def test_several_convolutions_may_read_what_was_padded() -> None:
    draw = Sketch(1, 3, 8, 8)
    x = draw.pair(padded(draw, draw.x, 0, 0, 1, 1, 0, 0, 1, 1), "in")
    graph = draw.done(draw.integer_conv(x, 4, 3, 3, 3), draw.integer_conv(x, 2, 3, 1, 1))
    assert counted(graph, fold_pads) == 1


def test_pads_of_named_axes_are_read_too() -> None:
    draw = Sketch(1, 3, 8, 8, opset=18)
    inputs = [draw.constant("pads", np.int64([1, 2, 3, 4])), gs.Variable.empty()]
    axes = draw.constant("axes", np.int64([-1, 2]))
    x = draw.node("Pad", draw.x, *inputs, axes)
    graph = draw.done(draw.integer_conv(x, 4, 3, 3, 3))
    assert counted(graph, fold_pads) == 1
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert conv.attrs["pads"] == [2, 1, 4, 3]


def test_a_convolution_that_asks_for_no_pads_gets_them() -> None:
    draw = Sketch(1, 3, 8, 8)
    x = padded(draw, draw.x, 0, 0, 1, 1, 0, 0, 1, 1)
    graph = draw.done(draw.integer_conv(x, 4, 3, 3, 3, auto_pad="VALID"))
    assert counted(graph, fold_pads) == 1


@pytest.mark.parametrize(
    ("pads", "value", "mode"),
    [
        ((0, 0, 1, 1, 0, 0, 1, 1), 0.5, "constant"),
        ((0, 0, 1, 1, 0, 0, 1, 1), 0.0, "reflect"),
        ((0, 0, -1, 0, 0, 0, 0, 0), 0.0, "constant"),
        ((0, 1, 0, 0, 0, 0, 0, 0), 0.0, "constant"),
    ],
    ids=["value", "mode", "negative", "channels"],
)
def test_other_pads_stay(pads: tuple[int, ...], value: float, mode: str) -> None:
    draw = Sketch(1, 3, 8, 8)
    channels = 3 + pads[1]
    x = padded(draw, draw.x, *pads, value=value, mode=mode)
    graph = draw.done(draw.integer_conv(x, 4, channels, 3, 3))
    assert counted(graph, fold_pads) == 0


@pytest.mark.parametrize("reader", ["Neg", "output", "SAME_UPPER", "MaxPool"])
def test_zeros_that_somebody_else_needs_stay(reader: str) -> None:
    draw = Sketch(1, 3, 8, 8)
    x = padded(draw, draw.x, 0, 0, 1, 1, 0, 0, 1, 1)
    auto = {"auto_pad": reader} if reader == "SAME_UPPER" else {}
    outputs = [draw.integer_conv(x, 4, 3, 3, 3, **auto)]
    if reader == "MaxPool":
        outputs.append(draw.node(reader, x, kernel_shape=[2, 2]))
    elif not auto:
        outputs.append(x if reader == "output" else draw.node(reader, x))
    assert counted(draw.done(*outputs), fold_pads) == 0


def test_pads_that_are_computed_stay() -> None:
    draw = Sketch(1, 3, 8, 8)
    zeros = draw.node("Sub", *[draw.node("Shape", draw.x, out=np.int64)] * 2, out=np.int64)
    pads = draw.node("Concat", zeros, zeros, out=np.int64, axis=0)
    graph = draw.done(draw.integer_conv(draw.node("Pad", draw.x, pads), 4, 3, 3, 3))
    assert counted(graph, fold_pads) == 0


def test_the_convolution_before_the_pad_then_runs_in_integers() -> None:
    draw = Sketch(1, 4, 8, 8)
    x = draw.node("Relu", draw.integer_conv(draw.pair(draw.x, "in"), 16, 4, 1, 1))
    x = draw.pair(padded(draw, x, 0, 0, 0, 0, 0, 0, 1, 1), "middle")
    graph = draw.done(draw.pair(draw.integer_conv(x, 16, 1, 3, 3, group=16), "out"))
    assert executed(graph)["QLinearConv"] == 1
    assert counted(graph, fold_pads) == 1
    clamp_codes(graph)
    assert executed(graph)["QLinearConv"] == 2
