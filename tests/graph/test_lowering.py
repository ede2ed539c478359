"""Markers become Q and DQ of the grids they are given, with the names of their sites."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest

from qdq.errors import GraphError
from qdq.graph.lowering import SiteGrid, lower

MARKER = "Site"


def scalar(site: str, scale: float, point: int, code_type: Any = np.int8) -> SiteGrid:
    return SiteGrid(site, np.array(scale, np.float32), np.array(point, code_type))


def marked(site: str, source: gs.Tensor, name: str) -> tuple[gs.Node, gs.Variable]:
    result = gs.Variable(name, np.float32, source.shape)
    return gs.Node(MARKER, f"marker_{name}", {"site": site}, [source], [result]), result


def ends(*shape: int) -> tuple[gs.Variable, gs.Variable]:
    return gs.Variable("x", np.float32, shape), gs.Variable("y", np.float32, shape)


def run(graph: gs.Graph, x: Any) -> Any:
    graph.cleanup().toposort()
    model = gs.export_onnx(graph)
    model.ir_version = 8  # onnx may be newer than onnxruntime
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x.astype(np.float32)})[0]


def activation(site: str = "fc.input") -> gs.Graph:
    """y = Neg(marker(x))."""
    x, y = ends(4)
    node, result = marked(site, x, "between")
    return gs.Graph([node, gs.Node("Neg", "neg", {}, [result], [y])], [x], [y], opset=13)


def test_an_activation_is_rounded_to_its_grid() -> None:
    graph = activation()
    lower(graph, {"fc.input": scalar("fc.input", 0.5, 3, np.uint8)}, marker=MARKER)
    y = run(graph, np.array([0.25, 0.75, -9.0, 999.0]))
    # to even at ties; codes 0..255 of zero point 3 hold -1.5..126
    np.testing.assert_array_equal(y, -np.float32([0.0, 1.0, -1.5, 126.0]))


def test_nodes_and_initializers_are_named_after_the_site() -> None:
    graph = activation()
    names = lower(graph, {"fc.input": scalar("fc.input", 0.5, 3)}, marker=MARKER)
    assert names == {"fc.input": "fc.input"}
    assert {node.name for node in graph.nodes} == {
        "fc.input/QuantizeLinear",
        "fc.input/DequantizeLinear",
        "neg",
    }
    assert set(graph.tensors()) == {
        "x",
        "y",
        "fc.input",
        "fc.input.codes",
        "fc.input.scale",
        "fc.input.zero_point",
    }


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_becomes_its_codes_and_one_scale_per_entry_of_its_axis(axis: int) -> None:
    x, y = ends(2, 2)
    node, result = marked("fc.weight", gs.Constant("fc.weight", np.eye(2, dtype=np.float32)), "w")
    graph = gs.Graph([node, gs.Node("Mul", "mul", {}, [x, result], [y])], [x], [y], opset=13)
    codes = np.array([[10, 20], [-30, -40]], np.int8)
    scale, point = np.float32([0.5, 2.0]), np.zeros(2, np.int8)
    grid = SiteGrid("fc.weight", scale, point, axis, codes)
    assert lower(graph, {"fc.weight": grid}, marker=MARKER) == {"fc.weight": "fc.weight"}
    want = codes * (scale[:, None] if axis == 0 else scale)
    np.testing.assert_array_equal(run(graph, np.ones((2, 2))), want)
    assert graph.tensors()["fc.weight.codes"].values.dtype == np.int8
    assert [node.op for node in graph.nodes] == ["DequantizeLinear", "Mul"]


def test_an_int32_bias_has_a_scale_and_no_zero_point() -> None:
    x, y = ends(2)
    node, result = marked("fc.bias", gs.Constant("fc.bias", np.zeros(2, np.float32)), "b")
    graph = gs.Graph([node, gs.Node("Add", "add", {}, [x, result], [y])], [x], [y], opset=13)
    codes = np.array([70000, -70000], np.int32)
    grid = SiteGrid("fc.bias", np.float32([0.5, 2.0]), np.zeros(2, np.int32), 0, codes)
    lower(graph, {"fc.bias": grid}, marker=MARKER)
    np.testing.assert_array_equal(run(graph, np.zeros(2)), np.float32([35000, -140000]))
    assert "fc.bias.zero_point" not in graph.tensors()


def test_a_site_called_twice_has_two_pairs_and_one_scale() -> None:
    x, y = ends(4)
    first, middle = marked("add.input", x, "a")
    negated = gs.Variable("n", np.float32, (4,))
    second, last = marked("add.input", negated, "b")
    nodes = [
        first,
        gs.Node("Neg", "neg", {}, [x], [negated]),
        second,
        gs.Node("Sub", "sub", {}, [middle, last], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=13)
    names = lower(graph, {"add.input": scalar("add.input", 1.0, 0)}, marker=MARKER)
    assert names == {"add.input": "add.input"}
    x_values = np.array([0.4, 0.6, -3.2, 200.0])
    np.testing.assert_array_equal(run(graph, x_values), np.float32([0, 2, -6, 127 + 128]))
    assert {node.name for node in graph.nodes} >= {
        "add.input/QuantizeLinear",
        "add.input/QuantizeLinear_1",
        "add.input/DequantizeLinear_1",
    }
    scales = {
        id(node.inputs[1])
        for node in graph.nodes
        if node.op in ("QuantizeLinear", "DequantizeLinear")
    }
    assert len(scales) == 1


def test_a_marker_that_makes_an_output_of_the_graph_keeps_its_name() -> None:
    x, y = ends(4)
    graph = gs.Graph([gs.Node(MARKER, "m", {"site": "fc.output"}, [x], [y])], [x], [y], opset=13)
    assert lower(graph, {"fc.output": scalar("fc.output", 1.0, 0)}, marker=MARKER) == {
        "fc.output": "y"
    }
    np.testing.assert_array_equal(run(graph, np.array([0.4, 0.6, 1.5, 2.5])), [0, 1, 2, 2])


def test_a_site_called_like_an_input_of_the_graph_gives_way() -> None:
    graph = activation("x")
    assert lower(graph, {"x": scalar("x", 1.0, 0)}, marker=MARKER) == {"x": "x.dequantized"}
    np.testing.assert_array_equal(run(graph, np.array([0.4, 0.6, 1.5, 2.5])), [0, -1, -2, -2])


def test_a_site_called_like_a_float_weight_that_stays_gives_way() -> None:
    x, y = ends(2)
    weight = gs.Constant("head.weight", np.float32([3.0, 5.0]))
    node, result = marked("head.weight", weight, "w")
    product = gs.Variable("p", np.float32, (2,))
    nodes = [
        node,
        gs.Node("Mul", "mul", {}, [x, result], [product]),
        gs.Node("Add", "add", {}, [product, weight], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=13)
    codes = np.array([1, 2], np.int8)
    grid = SiteGrid("head.weight", np.array(2.0, np.float32), np.array(0, np.int8), None, codes)
    names = lower(graph, {"head.weight": grid}, marker=MARKER)
    assert names == {"head.weight": "head.weight.dequantized"}
    np.testing.assert_array_equal(run(graph, np.ones(2)), [2 + 3, 4 + 5])


def test_a_marker_without_a_grid_is_an_error() -> None:
    with pytest.raises(GraphError) as caught:
        lower(activation("conv.input"), {}, marker=MARKER)
    assert str(caught.value) == (
        "the graph holds a marker of 'conv.input', a site that is not switched on\n"
        "  at:  marker_between\n"
        "  fix: this is a bug in the export: please report it with the model"
    )
