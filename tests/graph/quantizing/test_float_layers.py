"""Layers in one form, constants as initializers: the graph computes what it did."""

from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdq.errors import GraphError
from qdq.graph.quantizing.cleaning import cleaned, name_nodes
from tests.graph.quantizing.float_nets import FloatNet, images, run


def ops_after(model: onnx.ModelProto, *shape: int) -> Counter[str]:
    """Operators of the cleaned graph, which was seen to compute what the model does."""
    graph, _ = cleaned(model, "float.onnx")
    result = gs.export_onnx(graph, opset_imports=model.opset_import)
    result.ir_version = 8
    for x in (images(2, *shape), images(3, *shape, seed=2)):
        for before, after in zip(run(model, {"x": x}), run(result, {"x": x}), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return Counter(node.op for node in graph.nodes)


def test_sums_of_several_become_additions_of_two() -> None:
    net = FloatNet("n", 3)
    total = net.op("Sum", "x", net.op("Relu", "x"), net.op("Neg", "x"))
    assert ops_after(net.model(total), 3) == {"Relu": 1, "Neg": 1, "Add": 2}


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6), (1, 1)])
def test_a_scaled_gemm_becomes_a_plain_one(shape: tuple[int, ...]) -> None:
    net = FloatNet("n", 4)
    held = net.hold(net.draw(4, 6)), net.hold(net.draw(*shape))
    model = net.model(net.op("Gemm", "x", *held, alpha=0.5, beta=3.0))
    assert ops_after(model, 4) == {"Gemm": 1}
    graph, _ = cleaned(model, "float.onnx")
    assert not graph.nodes[0].attrs.keys() & {"alpha", "beta"}
    assert graph.nodes[0].inputs[2].values.shape == (6,)


def test_a_product_and_its_bias_become_a_gemm_where_the_data_is_a_matrix() -> None:
    net = FloatNet("n", 4)
    product = net.op("MatMul", "x", net.hold(net.draw(4, 6)))
    assert ops_after(net.model(net.op("Add", net.hold(net.draw(1, 6)), product)), 4) == {"Gemm": 1}


def test_on_more_axes_the_bias_becomes_flat() -> None:
    net = FloatNet("n", 3, 4)
    product = net.op("MatMul", "x", net.hold(net.draw(4, 6)))
    model = net.model(net.op("Add", product, net.hold(net.draw(1, 1, 6))))
    assert ops_after(model, 3, 4) == {"MatMul": 1, "Add": 1}
    graph, _ = cleaned(model, "float.onnx")
    add = next(node for node in graph.nodes if node.op == "Add")
    assert add.inputs[1].values.shape == (6,)


def test_a_bias_with_more_axes_than_the_product_keeps_them() -> None:
    net = FloatNet("n", 4)
    product = net.op("MatMul", "x", net.hold(net.draw(4, 6)))
    model = net.model(net.op("Add", product, net.hold(net.draw(1, 1, 6))))
    assert ops_after(model, 4) == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_an_image_becomes_a_pool(axes: list[int], keepdims: int) -> None:
    net = FloatNet("n", 3, 4, 5)
    mean = net.op("ReduceMean", "x", axes=axes, keepdims=keepdims)
    ops = ops_after(net.model(net.op("Relu", mean)), 3, 4, 5)
    assert (ops["GlobalAveragePool"], ops["ReduceMean"], ops["Squeeze"]) == (1, 0, 1 - keepdims)


def test_a_mean_over_something_else_stays() -> None:
    net = FloatNet("n", 3, 4, 5)
    model = net.model(net.op("ReduceMean", "x", axes=[1, 2], keepdims=0))
    assert ops_after(model, 3, 4, 5) == {"ReduceMean": 1}


def test_a_mean_that_is_subtracted_stays() -> None:
    net = FloatNet("n", 3, 4, 5)
    mean = net.op("ReduceMean", "x", axes=[2, 3], keepdims=1)
    assert ops_after(net.model(net.op("Sub", "x", mean)), 3, 4, 5) == {"ReduceMean": 1, "Sub": 1}


def test_the_axes_of_a_mean_may_be_an_input() -> None:
    net = FloatNet("n", 3, 4, 5, opset=18)
    mean = net.op("ReduceMean", "x", net.hold(np.array([2, 3])))
    assert ops_after(net.model(net.op("Relu", mean)), 3, 4, 5)["GlobalAveragePool"] == 1


def test_what_moves_or_scales_a_weight_is_done_once() -> None:
    net = FloatNet("n", 40)
    held = numpy_helper.from_array(net.draw(60, 4, 10))
    flat = net.op("Reshape", net.op("Constant", value=held), net.hold(np.array([60, 40])))
    weight = net.op("Mul", net.op("Transpose", flat), net.hold(np.float32(0.5)))
    model = net.model(net.op("MatMul", net.op("Identity", "x"), net.op("Identity", weight)))
    assert ops_after(model, 40) == {"MatMul": 1}


def test_a_constant_that_would_grow_is_left_to_the_runtime() -> None:
    net = FloatNet("n", 40)
    grown = net.op("Add", net.hold(net.draw(2000, 1)), net.hold(net.draw(1, 2000)))
    total = net.op("ReduceSum", grown, keepdims=0)
    assert ops_after(net.model(net.op("Add", "x", total)), 40) == {"Add": 2, "ReduceSum": 1}


def test_a_cast_to_the_type_that_is_there_goes_and_another_stays() -> None:
    net = FloatNet("n", 4)
    same = net.op("Cast", net.op("Relu", "x"), to=TensorProto.FLOAT)
    whole = net.op("Cast", same, to=TensorProto.INT32)
    model = net.model(net.op("Neg", net.op("Cast", whole, to=TensorProto.FLOAT)))
    assert ops_after(model, 4) == {"Relu": 1, "Cast": 2, "Neg": 1}


def test_a_dropout_that_gives_its_mask_stays() -> None:
    net = FloatNet("n", 4)
    kept = net.op("Dropout", "x")
    net.nodes[-1].output.append("mask")
    model = net.model(net.op("Add", kept, net.op("Cast", "mask", to=TensorProto.FLOAT)))
    assert ops_after(model, 4) == {"Dropout": 1, "Cast": 1, "Add": 1}


def test_every_node_has_a_name_of_its_own() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["c"], name="same"),
        helper.make_node("Relu", ["c"], ["d"], name=".dotted"),
    ]
    net = FloatNet("n", 4)
    net.nodes = nodes
    graph = gs.import_onnx(net.model("d"))
    name_nodes(graph)
    assert [node.name for node in graph.nodes] == ["Relu_a", "same", "same_2", "dotted"]


def test_no_tensor_is_called_as_those_of_a_site_will_be() -> None:
    net = FloatNet("n", 3, 4, 4)
    weight = net.hold(net.draw(2, 3, 1, 1), "conv.input.scale")
    conv = net.op("Conv", "x", weight, net.hold(net.draw(2), "conv.weight.codes"), name="conv")
    graph = gs.import_onnx(net.model(net.op("Relu", conv, name="relu")))
    name_nodes(graph)
    assert [node.name for node in graph.nodes] == ["conv_2", "relu"]


def test_a_graph_that_runs_in_a_circle_is_refused() -> None:
    net = FloatNet("n", 4)
    net.nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    with pytest.raises(GraphError, match="the graph cannot be taken apart: "):
        cleaned(net.model("b"), "float.onnx")
