"""Files of strangers: read whole, on an opset with Q/DQ per channel, or refused with a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdq.errors import GraphError
from qdq.graph.linting.reading import opset_of
from qdq.graph.quantizing.opening import open_float
from tests.graph.quantizing.float_nets import FloatNet, images, residual_net, run, saved


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_old_opset_is_converted_and_computes_the_same(tmp_path: Path, opset: int) -> None:
    source = saved(residual_net(opset), tmp_path)
    model, notes = open_float(source)
    assert (opset_of(model), notes) == (13, (f"converted from opset {opset} to 13",))
    model.ir_version = 8
    feed = {"x": images(2)}
    np.testing.assert_allclose(run(model, feed)[0], run(source, feed)[0], rtol=1e-5)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_a_new_opset_is_kept(tmp_path: Path, opset: int) -> None:
    model, notes = open_float(saved(residual_net(opset), tmp_path))
    assert (opset_of(model), notes) == (opset, ())


def test_an_old_file_lists_its_initializers_as_inputs_and_is_converted(tmp_path: Path) -> None:
    model = residual_net(11)
    for each in model.graph.initializer:
        listed = helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        model.graph.input.append(listed)
    model.ir_version = 3  # in which they must be listed
    opened, notes = open_float(saved(model, tmp_path))
    assert [each.name for each in opened.graph.input] == ["x"]
    assert notes == ("converted from opset 11 to 13",)


def test_an_upsample_of_opset_nine_is_a_resize(tmp_path: Path) -> None:
    net = FloatNet(1, 3, 4, 4, opset=9)
    scales = net.hold(np.float32([1, 1, 2, 2]))
    source = saved(net.model(net.op("Upsample", "x", scales, mode="nearest")), tmp_path)
    model, _ = open_float(source)
    assert "Resize" in {node.op_type for node in model.graph.node}
    model.ir_version = 8
    feed = {"x": images(1, 3, 4, 4)}
    np.testing.assert_array_equal(run(model, feed)[0], run(source, feed)[0])


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("my", 1)]
    body = [helper.make_node("Neg", ["a"], ["n"]), helper.make_node("Relu", ["n"], ["b"])]
    function = helper.make_function("my", "Flip", ["a"], ["b"], body, opsets[:1])
    net = FloatNet("n", 4, opset=15)
    model = net.model(net.op("Flip", "x", domain="my"))
    model.opset_import.append(opsets[1])
    model.functions.append(function)
    opened, _ = open_float(saved(model, tmp_path))
    assert [node.op_type for node in opened.graph.node] == ["Neg", "Relu"]


def test_data_beside_the_file_is_read(tmp_path: Path) -> None:
    onnx.save(
        residual_net(),
        tmp_path / "float.onnx",
        save_as_external_data=True,
        location="data",
        size_threshold=0,
    )
    model, _ = open_float(tmp_path / "float.onnx")
    assert all(each.data_location != TensorProto.EXTERNAL for each in model.graph.initializer)
    (tmp_path / "data").unlink()
    with pytest.raises(GraphError, match="data"):
        open_float(tmp_path / "float.onnx")


@pytest.mark.parametrize(
    "op", ["QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "ConvInteger", "MatMulInteger"]
)
def test_a_file_with_integer_operators_is_refused(tmp_path: Path, op: str) -> None:
    net = FloatNet("n", 4)
    branch = helper.make_graph(
        [helper.make_node(op, ["x"] * 8, ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    hidden = net.op("Greater", net.op("ReduceSum", "x", keepdims=0), net.hold(np.float32(0)))
    made = net.op("If", hidden, then_branch=branch, else_branch=branch)
    path = tmp_path / "float.onnx"
    path.write_bytes(net.model(made).SerializeToString())
    with pytest.raises(GraphError, match=f"it holds {op}|no valid ONNX model"):
        open_float(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "float.onnx").write_bytes(b"no model")
    with pytest.raises(GraphError, match="this is no valid ONNX model: "):
        open_float(tmp_path / "float.onnx")
    with pytest.raises(GraphError, match="there is no such ONNX file"):
        open_float(tmp_path / "none.onnx")


def branching(op: str, **attributes: Any) -> onnx.ModelProto:
    net = FloatNet(1, 4, opset=11)
    branches = {}
    for name in ("then_branch", "else_branch"):
        result = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)
        node = helper.make_node(op, ["x"], [f"{name}.y"], **attributes)
        branches[name] = helper.make_graph([node], name, [], [result])
    condition = net.op("Greater", net.op("ReduceSum", "x", keepdims=0), net.hold(np.float32(0)))
    return net.model(net.op("If", condition, **branches))


@pytest.mark.parametrize(("op", "attributes"), [("Squeeze", {"axes": [0]}), ("Softmax", {})])
def test_what_the_converter_leaves_behind_in_a_branch_is_named(
    tmp_path: Path, op: str, attributes: dict[str, Any]
) -> None:
    with pytest.raises(GraphError) as refused:
        open_float(saved(branching(op, **attributes), tmp_path))
    assert str(refused.value) == (
        "onnx cannot convert opset 11 to 13, the first with Q/DQ per channel: it leaves "
        f"{op} in a branch or body as they were\n"
        f"  at:  {tmp_path / 'float.onnx'}\n"
        "  fix: export it again with opset 13 or newer"
    )


def test_a_branch_whose_operators_mean_the_same_is_converted(tmp_path: Path) -> None:
    model, notes = open_float(saved(branching("Abs"), tmp_path))
    assert (opset_of(model), notes) == (13, ("converted from opset 11 to 13",))


def test_operators_of_other_domains_are_kept(tmp_path: Path) -> None:
    net = FloatNet("n", 4, opset=10)
    model = net.model(net.op("Relu", net.op("Gelu", "x", domain="com.microsoft")))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    opened, _ = open_float(saved(model, tmp_path))
    assert [node.op_type for node in opened.graph.node] == ["Gelu", "Relu"]
    assert {each.domain: each.version for each in opened.opset_import} == {
        "": 13,
        "com.microsoft": 1,
    }
