"""TensorRT's rules on placement: each on a few nodes, once kept and once broken."""

import numpy as np
import onnx
import pytest

from tests.checking.qdq_edges import violations
from tests.checking.tiny_graphs import Cases, Net

CASES = Cases()
rule = CASES.rule


@rule("T08")
def float_weight(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.pair("x")
    return net.model(net.float_conv(x) if broken else net.conv(x))


@rule("T08 float input")
def float_input(broken: bool) -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv("x" if broken else net.pair("x")))


@rule("T08 two inputs")
def product_of_two_inputs(broken: bool) -> onnx.ModelProto:
    net = Net()
    other = net.another_input()
    turned = net.op("Transpose", other if broken else net.pair(other), perm=[0, 1, 3, 2])
    return net.model(net.op("MatMul", net.pair("x"), turned))


@rule("T09")
def between_layer_and_activation(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.conv(net.pair("x"))
    y = net.op("Relu", net.pair(y) if broken else y)
    return net.model(net.conv(net.pair(y)))


@rule("T09 output")
def behind_a_layer_for_nobody(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.conv(net.pair("x"))
    return net.model(net.op("Reshape", net.pair(y) if broken else y, net.hold([-1], np.int64)))


@rule("T10")
def between_conv_and_batch_norm(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.conv(net.pair("x"))
    return net.model(net.op("Relu", _batch_norm(net, net.pair(y) if broken else y)))


@rule("T10 relu")
def between_batch_norm_and_relu(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = _batch_norm(net, net.float_conv("x"))
    # The layer in front of the ReLU is Conv and BatchNormalization together.
    return net.model(net.op("Relu", net.pair(y) if broken else y))


@rule("T11")
def float_skip(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.conv(net.pair("x"))
    total = net.op("Add", y, "x" if broken else net.pair("x"))
    return net.model(net.conv(net.pair(total)))


@rule("T12")
def between_layer_and_addition(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.conv(net.pair("x"))
    total = net.op("Add", net.pair(y) if broken else y, net.pair("x"))
    return net.model(net.conv(net.pair(total)))


@rule("T12 downsample")
def pair_on_the_longer_of_two_branches(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.pair("x")
    y = net.conv(net.pair(net.op("Relu", net.conv(x))))
    skip = net.conv(x)
    total = net.op("Add", net.pair(y) if broken else y, net.pair(skip))
    return net.model(net.conv(net.pair(total)))


@rule("T13")
def float_output_of_a_pool(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("GlobalAveragePool", net.pair(net.op("Relu", net.conv(net.pair("x")))))
    return net.model(net.float_conv(y) if broken else net.conv(net.pair(y)))


@rule("T13 gate")
def product_of_int8_and_float(broken: bool) -> onnx.ModelProto:
    net = Net()
    other = net.another_input()
    y = net.op("Mul", net.pair("x"), other if broken else net.pair(other))
    return net.model(net.conv(net.pair(y)))


@rule("T14")
def second_pair_behind_a_max_pool(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("MaxPool", net.pair("x"), kernel_shape=[2, 2])
    return net.model(net.conv(net.pair(y, 0.2) if broken else y))


@rule("T14 nobody")
def pair_for_a_max_pool_alone(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("MaxPool", net.pair("x") if broken else "x", kernel_shape=[2, 2])
    return net.model(net.op("Tanh", y))


@rule("T16")
def concat_of_two_scales(broken: bool) -> onnx.ModelProto:
    net = Net()
    ahead = [net.pair(net.op("Relu", net.conv(net.pair("x"))), 0.1) for _ in range(2)]
    joined = net.op("Concat", *ahead, axis=2)
    return net.model(net.conv(net.pair(joined, 0.2 if broken else 0.1)))


@rule("T16 mixed")
def concat_of_int8_and_float(broken: bool) -> onnx.ModelProto:
    net = Net()
    other = net.another_input()
    joined = net.op("Concat", net.pair("x"), other if broken else net.pair(other), axis=2)
    return net.model(net.conv(net.pair(joined)))


@rule("T21")
def pair_in_front_of_softmax(broken: bool) -> onnx.ModelProto:
    net = Net()
    scores = net.conv(net.pair("x"))
    return net.model(net.op("Softmax", net.pair(scores) if broken else scores))


@rule("T21 table")
def quantized_table(broken: bool) -> onnx.ModelProto:
    net = Net()
    table = net.weight((4, 4)) if broken else net.hold(np.ones((4, 4)))
    rows = net.op("Gather", table, net.hold([0, 1, 2, 3], np.int64))
    return net.model(net.op("Add", "x", net.op("Tanh", rows)))


@rule("T24")
def pair_inside_silu(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.conv(net.pair("x"))
    gate = net.op("Sigmoid", y)
    y = net.op("Mul", y, net.pair(gate) if broken else gate)
    return net.model(net.conv(net.pair(y)))


@rule("T27")
def pair_at_an_output(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("Relu", net.conv(net.pair("x")))
    return net.model(net.pair(y) if broken else y)


@rule("T28", also="T14")
def int8_pool_between_float_layers(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("Relu", net.float_conv("x"))
    y = net.pair(net.op("AveragePool", net.pair(y), kernel_shape=[2, 2]))
    return net.model(net.op("Tanh", y) if broken else net.conv(y))


@rule("T29")
def batch_norm_in_front_of_a_pair(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = _batch_norm(net, "x")
    return net.model(net.conv(net.pair(y)) if broken else net.float_conv(y))


@rule("T30")
def pair_between_pad_and_conv(broken: bool) -> onnx.ModelProto:
    net = Net()
    ends = net.hold([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    if broken:
        return net.model(net.conv(net.pair(net.op("Pad", "x", ends))))
    return net.model(net.conv(net.op("Pad", net.pair("x"), ends)))


def _batch_norm(net: Net, x: str) -> str:
    return net.op("BatchNormalization", x, *(net.hold([1.0, 1.0]) for _ in range(4)))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_that_keeps_the_rule_breaks_none(name: str) -> None:
    assert violations(CASES[name](False), "tensorrt") == []


@pytest.mark.parametrize("name", CASES)
def test_a_broken_rule_is_found_and_no_other(name: str) -> None:
    broken = violations(CASES[name](True), "tensorrt")
    assert {each.rule for each in broken} == CASES.breaks[name]
