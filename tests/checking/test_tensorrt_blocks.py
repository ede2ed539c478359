"""TensorRT's rules on attention, norms and small layers, once kept and once broken."""

import numpy as np
import onnx
import pytest

from tests.checking.qdq_edges import violations
from tests.checking.tiny_graphs import Cases, Net

CASES = Cases()
rule = CASES.rule
SMALL = ("T18", "T19")


@rule("T18")
def small_product(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    y = net.op("MatMul", "x", net.hold(np.ones((4, 16))))
    weight = net.weight((16, 15 if broken else 16), 1)
    return net.model(net.op("MatMul", net.pair(net.op("Relu", y)), weight))


@rule("T19")
def small_convolution(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.op("Conv", "x", net.hold(np.ones((16, 2, 1, 1)))))
    return net.model(net.op("Conv", net.pair(x), net.weight((8, 16, 3, 1 if broken else 3))))


@rule("T19 groups")
def small_grouped_convolution(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.op("Conv", "x", net.hold(np.ones((8, 2, 1, 1)))))
    size = 1 if broken else 3
    return net.model(net.op("Conv", net.pair(x), net.weight((8, 1, size, size)), group=8))


@rule("T20")
def int8_in_front_of_a_mask(broken: bool) -> onnx.ModelProto:
    net = Net()
    other, mask = net.another_input(), net.another_input()
    pair = net.pair if broken else str
    scores = net.op("Mul", net.op("MatMul", pair("x"), pair(other)), net.hold(0.5))
    weights = net.op("Softmax", net.op("Add", scores, mask))
    return net.model(net.op("MatMul", net.pair(weights), net.pair(other)))


@rule("T20 mask")
def pair_at_the_mask(broken: bool) -> onnx.ModelProto:
    net = Net()
    other, mask = net.another_input(), net.another_input()
    scores = net.op("MatMul", "x", other)
    return net.model(net.op("Softmax", net.op("Add", scores, net.pair(mask) if broken else mask)))


@rule("T20 norm")
def pair_in_a_layer_norm(broken: bool) -> onnx.ModelProto:
    net = Net("text", opset=17)
    x = net.op("Tanh", "x")
    ones = net.hold(np.ones(4))
    y = net.op("LayerNormalization", net.pair(x) if broken else x, ones)
    return net.model(net.op("MatMul", net.pair(y), net.weight((4, 4), 1)))


@rule("T20 norm chain")
def pair_in_a_chain_of_a_layer_norm(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    centered = net.op("Sub", "x", net.op("ReduceMean", "x", axes=[-1]))
    squared = net.op("Pow", net.pair(centered) if broken else centered, net.hold(2.0))
    mean = net.op("ReduceMean", squared, axes=[-1])
    spread = net.op("Sqrt", net.op("Add", mean, net.hold(1e-5)))
    return net.model(net.op("Div", centered, spread))


@rule("T20 gelu")
def pair_in_a_gelu(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    x = net.op("Tanh", "x")
    erf = net.op("Erf", net.op("Div", x, net.hold(1.414)))
    half = net.op("Mul", net.pair(x) if broken else x, net.op("Add", erf, net.hold(1.0)))
    y = net.op("Mul", half, net.hold(0.5))
    return net.model(net.op("MatMul", net.pair(y), net.weight((4, 4), 1)))


@rule("T23")
def constant_addition(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("Add", net.pair("x") if broken else "x", net.hold(np.ones((2, 1, 1))))
    return net.model(net.conv(net.pair(y)))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_that_keeps_the_rule_breaks_none(name: str) -> None:
    assert violations(CASES[name](False), "tensorrt", small_layers=name[:3] in SMALL) == []


@pytest.mark.parametrize("name", CASES)
def test_a_broken_rule_is_found_and_no_other(name: str) -> None:
    broken = violations(CASES[name](True), "tensorrt", small_layers=name[:3] in SMALL)
    assert {each.rule for each in broken} == CASES.breaks[name]


def test_small_layers_are_judged_only_where_asked() -> None:
    assert violations(CASES["T18"](True), "tensorrt") == []
