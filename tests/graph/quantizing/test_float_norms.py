"""Folding norms, factors and terms into the layer before them changes nothing but rounding."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.quantizing.cleaning import name_nodes
from qdq.graph.quantizing.norms import fold_norms, fold_scales
from tests.graph.quantizing.float_nets import FloatNet, images, run


def folded(model: onnx.ModelProto, fold: Callable[[gs.Graph], int]) -> tuple[int, onnx.ModelProto]:
    graph = gs.import_onnx(model)
    name_nodes(graph)
    count = fold(graph)
    result = gs.export_onnx(graph.cleanup().toposort())
    result.ir_version = 8
    return count, result


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, *shape: int) -> None:
    x = images(2, *shape)
    np.testing.assert_allclose(
        run(after, {"x": x})[0], run(before, {"x": x})[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("biased", [True, False])
def test_a_norm_behind_a_convolution_is_part_of_it(op: str, groups: int, biased: bool) -> None:
    net = FloatNet("n", 4, 5, 5)
    shape = (6, 4 // groups, 3, 3) if op == "Conv" else (4, 6 // groups, 3, 3)
    parts = [net.hold(net.draw(*shape)), *([net.hold(net.draw(6))] if biased else [])]
    model = net.model(net.norm(net.op(op, "x", *parts, group=groups), 6))
    count, after = folded(model, fold_norms)
    assert count == 1
    assert [node.op_type for node in after.graph.node] == [op]
    assert_same(model, after, 4, 5, 5)


def test_a_norm_behind_a_gemm_is_part_of_it() -> None:
    net = FloatNet("n", 5)
    model = net.model(net.norm(net.linear("x", 7, 5), 7))
    count, after = folded(model, fold_norms)
    assert (count, [node.op_type for node in after.graph.node]) == (1, ["Gemm"])
    assert_same(model, after, 5)


def test_a_norm_that_is_not_alone_behind_its_layer_stays() -> None:
    net = FloatNet("n", 4, 5, 5)
    layer = net.conv("x", 4, 4)
    model = net.model(net.op("Add", net.norm(layer, 4), layer))
    assert folded(model, fold_norms)[0] == 0


def test_a_norm_that_still_learns_stays() -> None:
    net = FloatNet("n", 4, 5, 5, opset=15)
    model = net.model(net.norm(net.conv("x", 4, 4), 4))
    node = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    node.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    node.output.extend(["mean", "variance"])
    assert folded(model, fold_norms)[0] == 0


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1), (1,), (), (1, 1, 1, 1)])
@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
def test_a_constant_per_channel_behind_a_convolution_is_part_of_it(
    op: str, shape: tuple[int, ...]
) -> None:
    net = FloatNet("n", 3, 5, 5)
    factor = net.hold(np.asarray(net.rng.uniform(0.5, 2, shape), np.float32))
    model = net.model(net.op(op, net.conv("x", 4, 3), factor))
    count, after = folded(model, fold_scales)
    assert (count, [node.op_type for node in after.graph.node]) == (1, ["Conv"])
    assert_same(model, after, 3, 5, 5)


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_the_constant_may_come_first(op: str) -> None:
    net = FloatNet("n", 3, 5, 5)
    model = net.model(net.op(op, net.hold(np.float32(3)), net.conv("x", 4, 3)))
    count, after = folded(model, fold_scales)
    assert count == 1
    assert_same(model, after, 3, 5, 5)


@pytest.mark.parametrize(
    ("op", "values"),
    [
        ("Mul", np.ones((1, 1, 5, 5))),  # per pixel
        ("Add", np.ones((5,))),  # along the width
        ("Add", np.ones((2, 1, 4, 1, 1))),  # makes another axis
        ("Div", np.zeros((1, 4, 1, 1))),
        ("Mul", np.full((1, 4, 1, 1), np.inf)),
    ],
)
def test_any_other_constant_stays(op: str, values: np.ndarray) -> None:
    net = FloatNet("n", 3, 5, 5)
    layer = net.conv("x", 4, 3)
    model = net.model(net.op(op, layer, net.hold(values.astype(np.float32))))
    assert folded(model, fold_scales)[0] == 0


def test_a_constant_minus_a_layer_stays() -> None:
    net = FloatNet("n", 3, 5, 5)
    model = net.model(net.op("Sub", net.hold(np.float32(1)), net.conv("x", 4, 3)))
    assert folded(model, fold_scales)[0] == 0
