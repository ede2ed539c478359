"""What lint mends computes the same values, bit for bit, and breaks the rule no more."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from qdq.errors import InputError
from qdq.graph.linting.judging import lint
from qdq.targets.rules import RULES
from tests.checking.tiny_graphs import SHAPES, Cases, Net

CASES = Cases()
mends = CASES.rule
OUTPUT = (TensorProto.FLOAT, None)


def unsigned(shape: str = "image") -> Net:
    return Net(shape, signed=False)


@mends("T01 codes", also="T02")
def uint8_codes_around_128(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.op("Relu", net.conv(net.pair("x", 0.01, zero=128)))
    return net.model(net.conv(net.pair(y, [0.02], zero=128)))


@mends("T02 weight", also="T01")
def uint8_weight_around_128(broken: bool) -> onnx.ModelProto:
    net = Net()
    codes = net.hold(np.arange(4).reshape(2, 2, 1, 1) * 60 + 50, np.uint8)
    grid = (net.hold([0.01, 0.02]), net.hold([128, 128], np.uint8))
    weight = net.op("DequantizeLinear", codes, *grid, axis=0)
    return net.model(net.op("Conv", net.pair("x"), weight))


@mends("T14 pool")
def a_second_equal_pair_behind_a_max_pool(broken: bool) -> onnx.ModelProto:
    net = Net()
    y = net.op("MaxPool", net.pair("x"), kernel_shape=[2, 2])
    return net.model(net.conv(net.pair(y)))


@mends("T14 again")
def a_second_equal_pair(broken: bool) -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.pair(net.pair(net.pair("x", 0.03), 0.03), 0.03)))


@mends("T22")
def int32_bias(broken: bool) -> onnx.ModelProto:
    net = Net()
    bias = net.bias(2, code=2**24 + 3, scale=1e-6)  # its float is rounded
    return net.model(net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), bias))


@mends("O04 sum")
def codes_below_zero_behind_a_bounded_sum(broken: bool) -> onnx.ModelProto:
    net = Net()  # int8: at most 0.1 * 127 each, and the grid holds 0.5 * 127
    total = net.op("Add", net.pair("x"), net.pair(net.another_input()))
    y = net.op("MaxPool", net.pair(net.op("Relu", total), 0.5), kernel_shape=[2, 2])
    return net.model(net.pair(net.conv(net.pair(y, 0.5))))


@mends("O17")
def two_equal_pairs_behind_a_conv(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    y = net.conv(net.pair("x"))
    return net.model(net.pair(y), net.pair(y))


@mends("O27")
def int8_codes_with_several_readers(broken: bool) -> onnx.ModelProto:
    net = Net()
    x = net.pair("x", 0.03, -5)
    return net.model(*(net.pair(net.conv(x)) for _ in range(2)), net.op("Exp", x))


@mends("O19")
def equal_pairs_in_a_row(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    x = net.pair(net.pair(net.pair("x", 0.07, 3), 0.07, 3), 0.07, 3)
    return net.model(net.pair(net.conv(x)))


@mends("O23")
def pair_without_zero_point(broken: bool) -> onnx.ModelProto:
    net = unsigned()
    steps = net.hold(0.1)
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", steps), steps)
    return net.model(net.pair(net.conv(x)))


@mends("Q04")
def axis_from_the_end(broken: bool) -> onnx.ModelProto:
    net = Net("rows")
    codes = net.hold(np.arange(16).reshape(4, 4), np.int8)
    grid = (net.hold([0.1, 0.2, 0.3, 0.4]), net.hold([0] * 4, np.int8))
    weight = net.op("DequantizeLinear", codes, *grid, axis=-1)
    return net.model(net.op("MatMul", net.pair("x"), weight))


@mends("Q05")
def unread_pair(broken: bool) -> onnx.ModelProto:
    net = Net()
    net.pair(net.pair("x"))
    return net.model(net.conv(net.pair("x")))


def target_of(name: str) -> str:
    return RULES[name[:3]].target or "tensorrt"


def outputs(path: Path) -> list[np.ndarray]:
    """Without optimizations, so that nothing is mended on the way."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    shapes = [[each for each in entry.shape] for entry in session.get_inputs()]
    assert all(shape in SHAPES.values() for shape in shapes)
    feed = {
        entry.name: (random.standard_normal(shape) * 20).astype(np.float32)
        for entry, shape in zip(session.get_inputs(), shapes, strict=True)
    }
    return list(session.run(None, feed))


@pytest.mark.parametrize("name", CASES)
def test_a_mended_file_computes_the_same_and_breaks_the_rule_no_more(
    tmp_path: Path, name: str
) -> None:
    broken, mended = tmp_path / "broken.onnx", tmp_path / "mended.onnx"
    onnx.save(CASES[name](True), broken)
    before = broken.read_bytes()
    assert CASES.breaks[name] <= {row.rule for row in lint(broken, target_of(name)).rows}
    report = lint(broken, target_of(name), fix=mended)
    assert CASES.breaks[name] <= {row.rule for row in report.mended}
    assert not CASES.breaks[name] & {row.rule for row in report.rows}
    assert report.written == str(mended)
    assert lint(mended, target_of(name)).rows == report.rows
    assert broken.read_bytes() == before
    for one, other in zip(outputs(broken), outputs(mended), strict=True):
        np.testing.assert_array_equal(one, other)
    graph = onnx.load(mended).graph
    read = {name for node in graph.node for name in node.input}
    assert {each.name for each in graph.initializer} <= read


def test_a_zero_point_stays_where_lowering_it_would_let_more_values_pass(tmp_path: Path) -> None:
    net = unsigned()
    total = net.op("Add", net.pair("x"), net.pair(net.another_input()))
    model = net.model(net.pair(net.op("Relu", total), 0.1, zero=128))  # clips above 12.7
    onnx.save(model, tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "onnxruntime", fix=tmp_path / "mended.onnx")
    assert [row.rule for row in report.rows] == ["O04"]
    assert report.mended == ()
    assert onnx.load(tmp_path / "mended.onnx") == model


def test_pairs_of_other_grids_stay(tmp_path: Path) -> None:
    net = Net()
    y = net.op("MaxPool", net.pair("x"), kernel_shape=[2, 2])
    onnx.save(net.model(net.conv(net.pair(y, 0.2))), tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "tensorrt", fix=tmp_path / "mended.onnx")
    assert ([row.rule for row in report.rows], report.mended) == (["T14"], ())


def test_codes_that_leave_the_graph_keep_their_type(tmp_path: Path) -> None:
    net = unsigned()
    y = net.pair("x", zero=128)
    model = net.model(net.conv(y))
    kind = helper.make_tensor_value_info(net.nodes[0].output[0], TensorProto.UINT8, None)
    model.graph.output.append(kind)
    onnx.save(model, tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "tensorrt", fix=tmp_path / "mended.onnx")
    assert {row.rule for row in report.rows} >= {"T01", "T02"}


def test_a_mended_file_must_lie_beside_its_external_data(tmp_path: Path) -> None:
    net = Net()
    model = net.model(net.conv(net.pair("x")))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError) as caught:
        lint(tmp_path / "m.onnx", "tensorrt", fix=tmp_path / "other" / "m.onnx")
    assert str(caught.value) == (
        "the model has external data, which is found beside it only\n"
        f"  at:  {tmp_path / 'other' / 'm.onnx'}\n  fix: write into {tmp_path}"
    )
    assert list((tmp_path / "other").iterdir()) == []


def test_a_file_of_an_early_format_is_judged_and_left_as_it_is(tmp_path: Path) -> None:
    net = Net()
    net.pair("x")
    model = net.model(net.conv(net.pair("x")))
    model.ir_version = 3
    for held in model.graph.initializer:
        info = helper.make_tensor_value_info(held.name, held.data_type, list(held.dims))
        model.graph.input.append(info)
    onnx.save(model, tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "tensorrt", fix=tmp_path / "mended.onnx")
    assert [row.rule for row in report.rows] == ["Q05"]
    assert onnx.load(tmp_path / "mended.onnx") == model


@pytest.mark.parametrize("axis", [0, None])
def test_weights_become_floats_in_front_of_a_q_for_tensorrt_8(
    tmp_path: Path, axis: int | None
) -> None:
    net = Net()
    weight = net.weight((2, 2, 1, 1), axis, code=-77, scale=0.003)
    onnx.save(net.model(net.op("Conv", net.pair("x"), weight)), tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "tensorrt:8", fix=tmp_path / "mended.onnx")
    assert [row.rule for row in report.mended] == ["T06"]
    assert "T06" not in {row.rule for row in report.rows}
    (one,), (other,) = outputs(tmp_path / "m.onnx"), outputs(tmp_path / "mended.onnx")
    np.testing.assert_array_equal(one, other)
    mended = onnx.load(tmp_path / "mended.onnx").graph
    ahead = {name: node for node in mended.node for name in node.output}
    conv = next(node for node in mended.node if node.op_type == "Conv")
    quantizer = ahead[ahead[conv.input[1]].input[0]]
    values = next(each for each in mended.initializer if each.name == quantizer.input[0])
    assert (quantizer.op_type, values.data_type) == ("QuantizeLinear", TensorProto.FLOAT)


def test_weights_stay_codes_for_later_versions(tmp_path: Path) -> None:
    net = Net()
    model = net.model(net.conv(net.pair("x")))
    onnx.save(model, tmp_path / "m.onnx")
    assert lint(tmp_path / "m.onnx", "tensorrt:10", fix=tmp_path / "n.onnx").mended == ()
    assert onnx.load(tmp_path / "n.onnx") == model


def test_int8_codes_stay_where_kernels_take_them(tmp_path: Path) -> None:
    model = CASES["O27"](True)
    onnx.save(model, tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "onnxruntime:arm", fix=tmp_path / "n.onnx")
    assert (report.mended, onnx.load(tmp_path / "n.onnx") == model) == ((), True)
