import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.speed.gemms import multiply_flat
from tests.graph.graph_sketch import LEVELS, Sketch, executed, ops, results


def linear(
    draw: Sketch, x: gs.Tensor, site: str, inputs: int, outputs: int, *, add: str = "Add"
) -> gs.Tensor:
    """MatMul with an int8 weight and an Add of an int32 bias, as exporters write a linear layer."""
    rng = np.random.default_rng(len(draw.graph.nodes))
    scales = rng.uniform(0.01, 0.02, outputs).astype(np.float32)
    codes = rng.integers(-127, 128, (inputs, outputs))
    product = draw.node("MatMul", x, draw.weight(f"{site}.weight", codes, scales, 1))
    bias = gs.Variable(f"{site}.bias", np.float32)
    operands = [
        draw.constant(f"{site}.bias.codes", rng.integers(-99, 99, outputs, np.int32)),
        draw.constant(f"{site}.bias.scale", np.float32(0.05) * scales),
    ]
    node = gs.Node("DequantizeLinear", f"{site}.bias/DQ", {"axis": 0}, operands, [bias])
    draw.graph.nodes.append(node)
    return draw.node(add, bias, product)


def agree(graph: gs.Graph, sizes: dict[str, int]) -> int:
    """Rewrite; the results may differ by float rounding where the bias is added."""
    before = results(graph, LEVELS.ORT_ENABLE_ALL, sizes)
    count = multiply_flat(graph)
    graph.cleanup().toposort()
    for first, second in zip(before, results(graph, LEVELS.ORT_ENABLE_ALL, sizes), strict=True):
        assert first.shape == second.shape
        np.testing.assert_allclose(first, second, rtol=0, atol=2e-6 * np.abs(first).max())
    return count


@pytest.mark.parametrize(
    "shape", [(2, 3, 16), ("batch", 3, 16), ("batch", "length", 16), (1, "batch", 2, 16)], ids=str
)
@pytest.mark.parametrize("add", ["Add", "Sum"])
def test_a_linear_layer_becomes_one_product_of_matrices(
    shape: tuple[int | str, ...], add: str
) -> None:
    draw = Sketch(*shape)
    x = draw.pair(draw.x, "in", 0.05, 100)
    graph = draw.done(linear(draw, x, "fc", 16, 24, add=add), rank=len(shape))
    assert agree(graph, {"batch": 2, "length": 5}) == 1
    assert (ops(graph)["Gemm"], ops(graph)["MatMul"], ops(graph)[add]) == (1, 0, 0)
    gemm = next(node for node in graph.nodes if node.op == "Gemm")
    assert [each.name for each in gemm.inputs] == ["in", "fc.weight", "fc.bias"]
    assert executed(graph)["QGemm"] == 1


def test_layers_on_the_same_data_share_what_is_made_flat() -> None:
    draw = Sketch("batch", "length", 16)
    x = draw.pair(draw.x, "in", 0.05, 100)
    graph = draw.done(*(linear(draw, x, site, 16, 8) for site in ("q", "k", "v")), rank=3)
    assert agree(graph, {"batch": 2, "length": 5}) == 3
    assert (ops(graph)["Shape"], ops(graph)["Reshape"], ops(graph)["Concat"]) == (1, 4, 3)
    assert executed(graph)["QGemm"] == 3


def test_two_layers_on_the_batches_of_one_file_follow_each_other() -> None:
    draw = Sketch("batch", 4, 16)
    x = linear(draw, draw.pair(draw.x, "in", 0.05, 100), "first", 16, 8)
    graph = draw.done(linear(draw, draw.pair(x, "middle", 0.05, 100), "second", 8, 6))
    assert agree(graph, {"batch": 3}) == 2


def test_matrices_and_vectors_stay() -> None:
    draw = Sketch(5, 16)
    graph = draw.done(linear(draw, draw.pair(draw.x, "in", 0.05), "fc", 16, 24))
    assert agree(graph, {}) == 0


def test_a_product_that_somebody_else_reads_stays() -> None:
    draw = Sketch(2, 5, 16)
    total = linear(draw, draw.pair(draw.x, "in", 0.05), "fc", 16, 24)
    product = next(node for node in draw.graph.nodes if node.op == "MatMul").outputs[0]
    assert agree(draw.done(total, draw.node("Neg", product)), {}) == 0


def test_float_biases_and_residuals_stay() -> None:
    draw = Sketch(2, 5, 16)
    x = draw.pair(draw.x, "in", 0.05)
    product = draw.node("MatMul", x, draw.weight("w", np.ones((16, 16)), 0.1))
    biased = draw.node("Add", product, draw.constant("b", np.ones(16, np.float32)))
    again = draw.node("MatMul", x, draw.weight("v", np.ones((16, 16)), 0.2))
    assert agree(draw.done(draw.node("Add", again, biased)), {}) == 0
