"""Int8 codes that are moved for floats: the DQ goes behind, and onnxruntime takes the file."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.edges import infer_shapes
from qdq.graph.speed.movers import dequantize_behind_movers
from tests.graph.graph_sketch import LEVELS, Sketch, results

SIZES = {"Reshape": [[2, -1]], "Slice": [[0], [1]], "Squeeze": [[2]], "Unsqueeze": [[0]]}
RANKS = {"Reshape": 2, "Squeeze": 3, "Unsqueeze": 5}
ATTRIBUTES = {"MaxPool": {"kernel_shape": [2, 1]}, "Transpose": {"perm": [0, 3, 1, 2]}}


def moved(op: str, opset: int = 21, kind: Any = np.int8) -> tuple[Sketch, gs.Tensor]:
    draw = Sketch(2, 3, 1, 4, opset=opset)
    values = draw.pair(draw.x, "site", kind=kind)
    if op == "MaxPool":
        values = draw.node("Reshape", values, draw.constant("image", np.int64([2, 1, 3, 4])))
    sizes = [draw.constant(f"size_{i}", np.int64(x)) for i, x in enumerate(SIZES.get(op, []))]
    return draw, draw.node(op, values, *sizes, **ATTRIBUTES.get(op, {}))


def order(graph: gs.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("op", ["MaxPool", *SIZES, "Transpose"])
def test_what_moves_int8_codes_for_floats_reads_the_codes(op: str) -> None:
    draw, result = moved(op)
    graph = draw.done(draw.node("Exp", result), rank=RANKS.get(op, 4))
    infer_shapes(graph)
    before = results(graph)
    assert dequantize_behind_movers(graph) == 1 + (op == "MaxPool")
    assert order(graph)[-3:] == [op, "DequantizeLinear", "Exp"]
    assert graph.nodes[-2].outputs[0].name == "site"
    for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL):  # which refused it before
        np.testing.assert_allclose(results(graph, level)[0], before[0], rtol=1e-6)


@pytest.mark.parametrize(("opset", "kind"), [(20, np.int8), (21, np.uint8)])
def test_older_opsets_and_uint8_codes_are_left_alone(opset: int, kind: Any) -> None:
    draw, result = moved("Transpose", opset, kind)
    graph = draw.done(draw.node("Exp", result), rank=4)
    assert dequantize_behind_movers(graph) == 0
    assert order(graph)[1:] == ["DequantizeLinear", "Transpose", "Exp"]


def test_what_only_a_q_reads_is_left_alone() -> None:
    draw, result = moved("Transpose")
    graph = draw.done(draw.pair(result, "next", kind=np.int8))
    assert dequantize_behind_movers(graph) == 0


def test_other_readers_keep_the_dq_that_they_have() -> None:
    draw, result = moved("Transpose")
    beside = draw.node("Exp", draw.graph.tensors()["site"])
    graph = draw.done(draw.node("Neg", result), beside)
    assert dequantize_behind_movers(graph) == 1
    assert sorted(order(graph)) == sorted(
        ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Transpose", "Neg", "Exp"]
    )
