"""TensorRT's rules on numbers: each on a few nodes, once kept and once broken."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.checking.qdq_edges import violations
from tests.checking.tiny_graphs import Cases, Net

CASES = Cases()
rule = CASES.rule


@rule("T01")
def zero_point(broken: bool) -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.pair("x", zero=3 if broken else 0)))


@rule("T02")
def unsigned_codes(broken: bool) -> onnx.ModelProto:
    net = Net(signed=not broken)
    return net.model(net.conv(net.pair("x")))


@rule("T03")
def scale_per_weight(broken: bool) -> onnx.ModelProto:
    net = Net()
    weight = net.weight((2, 2, 1, 1), None if broken else 0)
    return net.model(net.op("Conv", net.pair("x"), weight))


@rule("T03 activation")
def scales_per_activation(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.pair("x", [0.1, 0.1], axis=1) if broken else net.pair("x")
    return net.model(net.conv(x))


@rule("T04")
def axis_of_conv(broken: bool) -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1), int(broken))))


@rule("T04 transposed conv")
def axis_of_transposed_conv(broken: bool) -> onnx.ModelProto:
    net = Net()
    weight = net.weight((2, 2, 1, 1), int(not broken))
    return net.model(net.op("ConvTranspose", net.pair("x"), weight))


@rule("T04 gemm")
def axis_of_gemm(broken: bool) -> onnx.ModelProto:
    net = Net("rows")
    return net.model(net.op("Gemm", net.pair("x"), net.weight((4, 4), int(broken)), transB=1))


@rule("T04 turned weight")
def axis_behind_a_transpose(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    turned = net.op("Transpose", net.weight((5, 4), int(broken)), perm=[1, 0])
    return net.model(net.op("MatMul", net.pair("x"), turned))


@rule("T05")
def opset_of_many_scales(broken: bool) -> onnx.ModelProto:
    net = Net(opset=12 if broken else 13)
    return net.model(net.conv(net.pair("x")))


@rule("T05 fp8")
def opset_of_fp8(broken: bool) -> onnx.ModelProto:
    net = Net(opset=18 if broken else 19)
    zero = helper.make_tensor("fp8", TensorProto.FLOAT8E4M3FN, [], [0.0])
    net.held.append(zero)
    steps = (net.hold(0.1), "fp8")
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", *steps), *steps)
    return net.model(net.conv(x))


@rule("T07")
def integer_operator(broken: bool) -> onnx.ModelProto:
    net = Net()
    if not broken:
        return net.model(net.conv(net.pair("x")))
    codes = net.op("Cast", "x", to=TensorProto.UINT8)
    return net.model(net.op("ConvInteger", codes, net.hold(np.ones((2, 2, 1, 1)), np.uint8)))


@rule("T15")
def two_scales_for_one_tensor(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", "x")
    return net.model(net.conv(net.pair(x)), net.conv(net.pair(x, 0.2 if broken else 0.1)))


@rule("T22")
def int32_bias(broken: bool) -> onnx.ModelProto:
    net = Net()
    bias = net.bias(2) if broken else net.hold([0.1, 0.1])
    return net.model(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), bias))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_that_keeps_the_rule_breaks_none(name: str) -> None:
    assert violations(CASES[name](False), "tensorrt") == []


@pytest.mark.parametrize("name", CASES)
def test_a_broken_rule_is_found_and_no_other(name: str) -> None:
    broken = violations(CASES[name](True), "tensorrt")
    assert {each.rule for each in broken} == CASES.breaks[name]
