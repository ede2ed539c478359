"""Each onnxruntime rule on a graph of a few nodes, once kept and once broken, and executed."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.checking.executed import Executed, executed
from tests.checking.qdq_edges import violations
from tests.checking.tiny_graphs import Cases, Net

CASES = Cases()
rule = CASES.rule
# Broken, these run in integers all the same: they compute something else (O07, O25, O26), or the
# pair is for nobody (O21), or x86 mends them by turning int8 into uint8 first (O15).
NOT_SEEN_IN_THE_EXECUTED_GRAPH = {
    "O07", "O07 axis", "O15 axis", "O21", "O23", "O25", "O25 sum",
    "O26", "O15 types", "O09 activation",
}  # fmt: skip


def unsigned(shape: str = "image") -> Net:
    return Net(shape, signed=False)


@rule("O01")
def float_input(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    return net.model(net.pair(net.conv("x" if broken else net.pair("x"))))


@rule("O02")
def conv_without_output_pair(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.conv(net.pair("x"))
    return net.model(y if broken else net.pair(y))


@rule("O04")
def codes_below_zero_behind_a_relu(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    return net.model(net.pair(net.op("Relu", net.conv(net.pair("x"))), zero=128 if broken else 0))


@rule("O04 sum")
def codes_below_zero_behind_a_sum(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    total = net.op("Add", net.pair("x"), net.pair(net.another_input()))
    return net.model(net.pair(net.op("Relu", total), zero=128 if broken else 0))


@rule("O05")
def clip_below_the_largest_code(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op("Clip", net.conv(net.pair("x")), net.hold(0.0), net.hold(6.0))
    return net.model(net.pair(y, 7 / 255 if broken else 6 / 255))


@rule("O06", also="O21")
def activation_in_front_of_the_pair(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.conv(net.pair("x"))
    return net.model(net.pair(net.op("LeakyRelu", y if broken else net.pair(y))))


@rule("O07")
def float_bias(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    bias = net.hold([0.1, 0.1]) if broken else net.bias(2)
    return net.model(net.pair(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), bias)))


@rule("O07 scale")
def scale_of_a_bias(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    bias = net.bias(2, scale=0.002 if broken else 0.001)
    return net.model(net.pair(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), bias)))


@rule("O07 axis")
def axis_of_a_weight(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    return net.model(net.pair(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1), int(broken)))))


@rule("O09")
def product_with_float(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    other = net.another_input()
    return net.model(net.pair(net.op("Mul", net.pair("x"), other if broken else net.pair(other))))


@rule("O09 output")
def sum_without_output_pair(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    total = net.op("Add", net.pair("x"), net.pair(net.another_input()))
    return net.model(total if broken else net.pair(total))


@rule("O09 activation")
def product_with_its_own_activation(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.pair(net.conv(net.pair("x")))
    other = net.another_input() if broken else net.op("Sigmoid", y)
    return net.model(net.pair(net.op("Mul", y, other)))


@rule("O10")
def residual_of_a_float_conv(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.float_conv("x")
    return net.model(net.pair(net.op("Add", y if broken else net.pair(y), net.pair("x"))))


@rule("O11")
def concat_with_float(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    other = net.another_input()
    joined = net.op("Concat", net.pair("x"), other if broken else net.pair(other), axis=1)
    return net.model(net.pair(joined))


@rule("O12")
def two_scales_around_a_max_pool(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op("MaxPool", net.pair("x"), kernel_shape=[2, 2])
    return net.model(net.pair(y, 0.2 if broken else 0.1))


@rule("O12 nearest")
def two_scales_around_a_resize(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    sizes = net.hold([1, 1, 2, 2])
    y = net.op("Resize", net.pair("x"), "", sizes, mode="nearest")
    return net.model(net.pair(y, 0.2 if broken else 0.1))


@rule("O13")
def pool_without_output_pair(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op("GlobalAveragePool", net.pair("x"))
    return net.model(y if broken else net.pair(y))


@rule("O14", also="O21")
def tanh_between_pairs(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    return net.model(net.pair(net.op("Tanh", net.pair("x"))) if broken else net.op("Tanh", "x"))


@rule("O14 transposed conv")
def transposed_conv(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    if broken:
        y = net.op("ConvTranspose", net.pair("x"), net.weight((2, 2, 1, 1), 1))
    else:
        y = net.op("ConvTranspose", "x", net.hold(np.ones((2, 2, 1, 1))))
    return net.model(net.pair(net.conv(net.pair(y))))


@rule("O14 linear resize")
def linear_resize(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op(
        "Resize", net.pair("x") if broken else "x", "", net.hold([1, 1, 2, 2]), mode="linear"
    )
    return net.model(net.pair(net.conv(net.pair(y))))


@rule("O15")
def float_factor(broken: bool) -> onnx.ModelProto:
    net = unsigned("text")
    factor = net.hold(np.ones((4, 4))) if broken else net.weight((4, 4), 1)
    return net.model(net.op("MatMul", net.pair("x"), factor))


@rule("O15 axis")
def axis_of_a_factor(broken: bool) -> onnx.ModelProto:
    net = unsigned("text")
    return net.model(net.op("MatMul", net.pair("x"), net.weight((4, 4), int(not broken))))


@rule("O15 types")
def signed_times_unsigned(broken: bool) -> onnx.ModelProto:
    net = unsigned("image")
    net.signed = broken
    x = net.pair("x")
    net.signed = False
    return net.model(net.pair(net.op("MatMul", x, net.pair(net.another_input()))))


@rule("O16")
def beta_of_a_gemm(broken: bool) -> onnx.ModelProto:
    net = unsigned("rows")
    weight, bias = net.weight((4, 4)), net.bias(4)
    beta = 2.0 if broken else 1.0
    return net.model(net.op("Gemm", net.pair("x"), weight, bias, transB=1, beta=beta))


@rule("O16 bias")
def float_bias_of_a_gemm(broken: bool) -> onnx.ModelProto:
    net = unsigned("rows")
    bias = net.hold([1.0] * 4) if broken else net.bias(4)
    return net.model(net.op("Gemm", net.pair("x"), net.weight((4, 4)), bias, transB=1))


@rule("O17")
def two_readers_behind_a_conv(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.conv(net.pair("x"))
    return net.model(net.pair(y), net.pair(y, 0.2) if broken else "x")


@rule("O17 output")
def an_output_in_front_of_its_pair(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op("Relu", net.conv(net.pair("x")))
    z = net.pair(y)
    return net.model(z, y) if broken else net.model(z)


@rule("O20", also="O21")
def batch_norm_behind_a_conv(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.conv(net.pair("x"))
    if broken:
        y = net.op("BatchNormalization", y, *(net.hold([1.0, 2.0]) for _ in range(4)))
    return net.model(net.pair(y))


@rule("O21")
def pair_on_its_own(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op("Relu", "x")
    return net.model(net.pair(y) if broken else y)


@rule("O23")
def pair_without_zero_point(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    if not broken:
        return net.model(net.pair(net.conv(net.pair("x"))))
    steps = net.hold(0.1)
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", steps), steps)
    return net.model(net.pair(net.conv(x)))


@rule("O25")
def bias_at_the_end_of_int32(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    bias = net.bias(2, code=2**31 - 1 if broken else 2**31 - 1000)
    return net.model(net.pair(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), bias)))


@rule("O25 sum")
def sum_beyond_int32(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    weight, bias = net.weight((2, 2, 1, 1), code=127), net.bias(2, code=2**31 - 60_000)
    if not broken:
        weight = net.weight((2, 2, 1, 1))
    return net.model(net.pair(net.op("Conv", net.pair("x"), weight, bias)))


@rule("O26")
def float_weight(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    x = net.pair("x")
    return net.model(net.pair(net.float_conv(x) if broken else net.conv(x)))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_that_keeps_the_rule_breaks_none(name: str) -> None:
    assert violations(CASES[name](False), "onnxruntime") == []


@pytest.mark.parametrize("name", CASES)
def test_a_broken_rule_is_found_and_no_other(name: str) -> None:
    broken = violations(CASES[name](True), "onnxruntime")
    assert {each.rule for each in broken} == CASES.breaks[name]


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_runs_a_kept_rule_in_integers(tmp_path: Path, name: str) -> None:
    ran = run(tmp_path, CASES[name](False))
    assert ran.float_layers == []
    assert [each for each in ran.between_pairs if "Mul" not in each] == []


@pytest.mark.parametrize("name", CASES.keys() - NOT_SEEN_IN_THE_EXECUTED_GRAPH)
def test_onnxruntime_runs_a_broken_rule_in_float(tmp_path: Path, name: str) -> None:
    kept, broken = run(tmp_path, CASES[name](False)), run(tmp_path, CASES[name](True))
    assert broken.float_layers or broken.between_pairs or broken.integer != kept.integer


def run(folder: Path, model: onnx.ModelProto) -> Executed:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return executed(path)
