"""Rules that the other checker does not know, each on a few nodes, once kept and once broken."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdq.graph.linting.judging import judge
from qdq.spec import QuantSpec
from qdq.targets import Target, get
from tests.checking.executed import executed
from tests.checking.tiny_graphs import Cases, Net

TENSORRT, ONNXRUNTIME = Cases(), Cases()
TARGETS: dict[str, Target] = {
    "tensorrt": get("tensorrt", skip_small=True),
    "onnxruntime": get("onnxruntime", weight=QuantSpec(bits=7, narrow=True)),
}


def wide(net: Net, x: str, code: int = 1) -> str:
    """A Conv large enough to gain."""
    return net.op("Conv", x, net.weight((16, 16, 1, 1), code=code))


def images() -> Net:
    net = Net()
    net.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 4, 4])
    return net


@TENSORRT.rule("T17")
def pair_behind_a_concat_of_layers(broken: bool) -> onnx.ModelProto:
    net = images()
    x = net.pair("x")
    ahead = [net.op("Relu", wide(net, x)) for _ in range(2)]
    if not broken:
        ahead = [net.pair(each) for each in ahead]
    return net.model(wide(net, net.pair(net.op("Concat", *ahead, axis=2))))


@TENSORRT.rule("T18")
def product_with_a_short_side(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    net.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32, 16])
    width = 8 if broken else 16
    return net.model(net.op("MatMul", net.pair("x"), net.weight((16, width), 1)))


@TENSORRT.rule("T19")
def conv_of_few_channels(broken: bool) -> onnx.ModelProto:
    net = images()
    outputs = 3 if broken else 8
    weight = net.weight((outputs, 16, 1, 3 if broken else 1))
    return net.model(net.op("Conv", net.pair("x"), weight))


@TENSORRT.rule("T19 depthwise")
def depthwise_conv_of_small_kernels(broken: bool) -> onnx.ModelProto:
    net = Net()
    net.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])
    side = 1 if broken else 3
    return net.model(net.op("Conv", net.pair("x"), net.weight((8, 1, side, side)), group=8))


@TENSORRT.rule("T19 weight")
def conv_with_a_varying_weight(broken: bool) -> onnx.ModelProto:
    net = images()
    weight = net.weight((16, 16, 1, 1))
    if broken:
        net.inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16, 1, 1]))
        weight = net.pair("w")
    return net.model(net.op("Conv", net.pair("x"), weight))


@TENSORRT.rule("T20 norm")
def pair_in_a_norm_of_single_operators(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    mean = net.op("ReduceMean", "x", axes=[-1])
    centred = net.op("Sub", "x", mean)
    square = net.op("Pow", net.pair(centred) if broken else centred, net.hold(2.0))
    spread = net.op("Sqrt", net.op("Add", net.op("ReduceMean", square, axes=[-1]), net.hold(1e-5)))
    return net.model(net.op("Div", centred, spread))


@TENSORRT.rule("T20 gelu")
def pair_in_a_gelu(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    erf = net.op("Erf", net.op("Div", net.pair("x") if broken else "x", net.hold(1.4)))
    y = net.op("Mul", "x", net.op("Add", erf, net.hold(1.0)))
    return net.model(net.op("Mul", y, net.hold(0.5)))


@TENSORRT.rule("T20 mask")
def pair_where_a_mask_is_added(broken: bool) -> onnx.ModelProto:
    net = Net("text")
    scores = net.op("MatMul", "x", net.op("Transpose", "x", perm=[0, 2, 1]))
    mask = net.op("Tanh", net.another_input("rows"))
    total = net.op("Add", net.pair(scores) if broken else scores, mask)
    return net.model(net.op("Softmax", total))


@TENSORRT.rule("T23")
def product_with_a_constant(broken: bool) -> onnx.ModelProto:
    net = images()
    y = net.op("Relu", wide(net, net.pair("x")))
    y = net.op("Mul", net.pair(y) if broken else y, net.hold(0.5))
    return net.model(wide(net, net.pair(y)))


@TENSORRT.rule("T25")
def norm_behind_an_int8_conv(broken: bool) -> onnx.ModelProto:
    net = images()
    net.opset = 17
    y = wide(net, net.pair("x"))
    return net.model(
        net.op("LayerNormalization", y if broken else net.pair(y), net.hold([1.0] * 4))
    )


@TENSORRT.rule("T26")
def resize_behind_an_int8_conv(broken: bool) -> onnx.ModelProto:
    net = images()
    y = net.op("Relu", wide(net, net.pair("x")))
    y = net.op("Resize", y if broken else net.pair(y), "", net.hold([1.0, 1.0, 2.0, 2.0]))
    return net.model(wide(net, net.pair(y)))


@TENSORRT.rule("T32")
def plugin_behind_a_pair(broken: bool) -> onnx.ModelProto:
    net = images()
    y = wide(net, net.pair("x"))
    y = net.op("Own", net.pair(y) if broken else y, domain="my.plugins")
    model = net.model(y)
    model.opset_import.append(helper.make_opsetid("my.plugins", 1))
    return model


@TENSORRT.rule("T34")
def pair_in_front_of_a_group_norm(broken: bool) -> onnx.ModelProto:
    net = images()
    net.opset = 21
    y = wide(net, net.pair("x"))
    y = net.pair(y) if broken else y
    ones = [net.hold([1.0] * 16) for _ in range(2)]
    return net.model(net.op("GroupNormalization", y, *ones, num_groups=4))


@ONNXRUNTIME.rule("O04 product")
def codes_below_zero_behind_a_gemm_and_relu(broken: bool) -> onnx.ModelProto:
    net = Net("rows", signed=False)
    y = net.op("Gemm", net.pair("x"), net.weight((4, 4)), net.bias(4), transB=1)
    return net.model(net.pair(net.op("Relu", y), zero=128 if broken else 0))


@ONNXRUNTIME.rule("O16 clamp")
def clamp_between_a_gemm_and_a_float_reader(broken: bool) -> onnx.ModelProto:
    net = Net("rows", signed=False)
    y = net.op("Gemm", net.pair("x"), net.weight((4, 4)), net.bias(4), transB=1)
    return net.model(net.op("Tanh", net.op("Relu", y if broken else net.op("Sum", y))))


@ONNXRUNTIME.rule("O19")
def a_second_pair_of_the_same_grid(broken: bool) -> onnx.ModelProto:
    net = Net(signed=False)
    x = net.pair("x")
    return net.model(net.pair(net.conv(net.pair(x) if broken else x)))


@ONNXRUNTIME.rule("O22")
def split_into_two_grids(broken: bool) -> onnx.ModelProto:
    net = Net(signed=False)
    net.nodes.append(helper.make_node("Split", [net.pair("x")], ["a", "b"], axis=1))
    return net.model(net.pair("a"), net.pair("b", 0.2 if broken else 0.1))


@ONNXRUNTIME.rule("O23 input")
def scale_that_may_be_fed(broken: bool) -> onnx.ModelProto:
    net = Net(signed=False)
    model = net.model(net.pair(net.conv(net.pair("x"))))
    if broken:
        held = next(each for each in model.graph.initializer if each.name == "c0")
        info = helper.make_tensor_value_info("c0", held.data_type, list(held.dims))
        model.graph.input.append(info)
    return model


@ONNXRUNTIME.rule("O24")
def weights_of_eight_bits(broken: bool) -> onnx.ModelProto:
    net = Net(signed=False)
    weight = net.weight((2, 2, 1, 1), code=127 if broken else 63)
    return net.model(net.pair(net.op("Conv", net.pair("x"), weight)))


@ONNXRUNTIME.rule("O27")
def int8_codes_with_two_readers(broken: bool) -> onnx.ModelProto:
    net = Net(signed=broken)
    x = net.pair("x")
    return net.model(*(net.pair(net.op("Conv", x, net.weight((2, 2, 1, 1)))) for _ in range(2)))


@ONNXRUNTIME.rule("O27 maker")
def int8_codes_of_a_layer_with_two_readers(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)))
    x = net.op("Identity", net.pair(x))
    return net.model(*(net.op("Exp", x) for _ in range(1 + broken)))


@ONNXRUNTIME.rule("O07 identity")
def float_bias_behind_an_identity(broken: bool) -> onnx.ModelProto:
    net = Net(signed=False)
    scale = 0.002 if broken else 0.001
    bias = net.op("Identity", net.bias(2, scale=scale))
    y = net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), bias)
    return net.model(net.pair(net.op("Identity", net.op("Relu", net.op("Identity", y)))))


@ONNXRUNTIME.rule("O10 identity")
def addition_behind_identities(broken: bool) -> onnx.ModelProto:
    net = Net(signed=False)
    y = net.conv(net.pair("x"))
    y = net.op("Identity", y if broken else net.pair(y))
    total = net.op("Add", y, net.op("Identity", net.pair(net.another_input())))
    return net.model(net.pair(net.op("Identity", total)))


CASES = [
    pytest.param(target, cases, name, id=f"{target} {name}")
    for target, cases in (("tensorrt", TENSORRT), ("onnxruntime", ONNXRUNTIME))
    for name in cases
]


@pytest.mark.parametrize(("target", "cases", "name"), CASES)
def test_a_graph_that_keeps_the_rule_breaks_none(target: str, cases: Cases, name: str) -> None:
    rows = [str(row) for row in judge(cases[name](False), TARGETS[target]) if row.rule != "Q05"]
    assert rows == []


@pytest.mark.parametrize(("target", "cases", "name"), CASES)
def test_a_broken_rule_is_found(target: str, cases: Cases, name: str) -> None:
    assert name[:3] in {row.rule for row in judge(cases[name](True), TARGETS[target])}


@pytest.mark.parametrize("name", ["O04 product", "O16 clamp"])
def test_onnxruntime_runs_what_breaks_the_rule_of_a_clamp_in_float(
    tmp_path: Path, name: str
) -> None:
    ran = []
    for broken in (False, True):
        onnx.save(ONNXRUNTIME[name](broken), tmp_path / "m.onnx")
        ran.append(executed(tmp_path / "m.onnx"))
    assert (ran[0].float_layers, ran[0].integer) == ([], {"QGemm": 1})
    assert ran[1].integer == {}
    assert len(ran[1].float_layers) == 1


def test_small_layers_and_eight_bits_are_no_matter_unless_the_target_asks() -> None:
    assert judge(TENSORRT["T18"](True), get("tensorrt")) == ()
    assert judge(ONNXRUNTIME["O24"](True), get("onnxruntime")) == ()


@pytest.mark.parametrize("name", ["O07 identity", "O10 identity"])
def test_an_identity_keeps_nothing_from_running_in_integers(tmp_path: Path, name: str) -> None:
    onnx.save(ONNXRUNTIME[name](False), tmp_path / "m.onnx")
    assert executed(tmp_path / "m.onnx").float_layers == []


def test_int8_codes_may_have_several_readers_where_kernels_take_them() -> None:
    assert judge(ONNXRUNTIME["O27"](True), get("onnxruntime:arm")) == ()


def test_tensorrt_8_reads_weights_as_floats_only() -> None:
    net = Net()
    model = net.model(net.conv(net.pair("x")))
    assert judge(model, get("tensorrt:10")) == ()
    (row,) = judge(model, get("tensorrt:8.6"))
    assert (row.rule, row.severity, row.tensor) == ("T06", "error", "c2")
    assert row.why == "its weight is codes, and tensorrt:8.6 reads floats in front of Q and DQ"
    net = Net()
    grid = (net.hold([0.1, 0.2]), net.hold([0, 0], np.int8))
    codes = net.op("QuantizeLinear", net.hold(np.ones((2, 2, 1, 1))), *grid, axis=0)
    weight = net.op("DequantizeLinear", codes, *grid, axis=0)
    assert judge(net.model(net.op("Conv", net.pair("x"), weight)), get("tensorrt:8.6")) == ()


@pytest.mark.parametrize("axis", [0, 1])
def test_the_scales_of_a_transposed_conv_lie_along_the_axis_of_the_version(axis: int) -> None:
    net = Net()
    model = net.model(net.op("ConvTranspose", net.pair("x"), net.weight((2, 2, 1, 1), axis)))
    wanted = {"tensorrt:8": 0, "tensorrt:10": 1, "tensorrt": 1}
    for version, right in wanted.items():
        found = [row.why for row in judge(model, get(version)) if row.rule == "T04"]
        wrong = f"weight scales along axis {axis} instead of {right}"
        assert found == ([] if axis == right else [wrong])


def test_scales_of_a_weight_outside_the_file_are_not_guessed() -> None:
    net = Net()
    model = net.model(net.conv(net.pair("x")))
    for held in model.graph.initializer:
        if np.prod(held.dims) == 4:
            held.ClearField("raw_data")
            held.data_location = TensorProto.EXTERNAL
            held.external_data.add(key="location", value="weights.bin")
    assert judge(model, get("tensorrt")) == ()


def test_the_pair_behind_a_product_that_no_sum_is_fused_with_splits_nothing() -> None:
    net = Net()
    net.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])
    x = net.pair("x")
    first, second = (net.op("MatMul", x, net.weight((16, 16), 1)) for _ in range(2))
    total = net.op("Add", net.pair(first), net.pair(second))
    model = net.model(net.op("MatMul", net.pair(total), net.weight((16, 16), 1)))
    assert "T12" not in {row.rule for row in judge(model, get("tensorrt"))}
