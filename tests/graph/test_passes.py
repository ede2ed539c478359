"""Each pass on a small graph of its own: what it does, what it leaves, and the same results."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.graph import passes
from tests.graph.graph_sketch import LEVELS, Sketch, ops, results, rewritten

# fold_transposed_weights


@pytest.mark.parametrize(("axis", "moved"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("perm", [[1, 0], None])
def test_a_transposed_weight_is_stored_transposed_and_its_axis_moves_along(
    axis: int, moved: int, perm: list[int] | None
) -> None:
    draw = Sketch(5, 3)
    codes = np.arange(12).reshape(4, 3) - 5
    weight = draw.weight("fc.weight", codes, np.linspace(0.1, 0.9, (4, 3)[axis]), axis)
    turned = draw.node("Transpose", weight, **({} if perm is None else {"perm": perm}))
    graph = rewritten(
        draw.done(draw.node("MatMul", draw.x, turned)), passes.fold_transposed_weights
    )
    assert ops(graph) == {"DequantizeLinear": 1, "MatMul": 1}
    dequantize = next(node for node in graph.nodes if node.op == "DequantizeLinear")
    np.testing.assert_array_equal(dequantize.inputs[0].values, codes.T)
    assert dequantize.attrs == {"axis": moved}
    assert dequantize.outputs[0].name == "fc.weight"


@given(order=st.permutations(range(3)), axis=st.integers(0, 2))
@settings(max_examples=18, deadline=None)
def test_any_permutation_of_a_weight_can_be_folded(order: list[int], axis: int) -> None:
    draw, shape = Sketch(1), (2, 3, 4)
    codes = np.arange(24).reshape(shape)
    weight = draw.weight("w", codes, np.arange(1, shape[axis] + 1), axis)
    turned = draw.node("Transpose", weight, perm=list(order))
    graph = rewritten(draw.done(draw.node("Mul", draw.x, turned)), passes.fold_transposed_weights)
    assert "Transpose" not in ops(graph)


def test_a_weight_with_one_scale_is_folded_too() -> None:
    draw = Sketch(5, 3)
    turned = draw.node("Transpose", draw.weight("w", np.arange(12).reshape(4, 3), 0.5), perm=[1, 0])
    graph = rewritten(
        draw.done(draw.node("MatMul", draw.x, turned)), passes.fold_transposed_weights
    )
    assert "Transpose" not in ops(graph)


def test_a_weight_that_is_also_read_as_it_stands_is_left_alone() -> None:
    draw = Sketch(3, 3)
    weight = draw.weight("w", np.arange(9).reshape(3, 3), [0.1, 0.2, 0.3], 0)
    turned = draw.node("Transpose", weight, perm=[1, 0])
    both = draw.node("Add", draw.node("MatMul", draw.x, turned), weight)
    graph = rewritten(draw.done(both), passes.fold_transposed_weights)
    assert ops(graph)["Transpose"] == 1


def test_a_transposed_activation_is_left_alone() -> None:
    draw = Sketch(3, 4)
    turned = draw.node("Transpose", draw.pair(draw.x, "in"), perm=[1, 0])
    graph = rewritten(draw.done(turned), passes.fold_transposed_weights)
    assert ops(graph)["Transpose"] == 1


# quantize_before_commuting


def test_a_max_pool_before_a_q_gets_a_pair_of_the_same_grid_in_front() -> None:
    draw = Sketch(1, 1, 6, 6)
    pooled = draw.node("MaxPool", draw.conv(draw.x), kernel_shape=[2, 2])
    graph = rewritten(
        draw.done(draw.pair(pooled, "next.input", 0.05, 7)), passes.quantize_before_commuting
    )
    chain = [node.op for node in graph.nodes]
    assert chain == [
        "Conv",
        "QuantizeLinear",
        "DequantizeLinear",
        "MaxPool",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
    first, second = (node for node in graph.nodes if node.op == "QuantizeLinear")
    assert first.name == "next.input/before_MaxPool/QuantizeLinear"
    assert [each.name for each in first.inputs[1:]] == [each.name for each in second.inputs[1:]]


@pytest.mark.parametrize(
    ("op", "attrs", "more"),
    [
        ("Flatten", {"axis": 1}, None),
        ("Reshape", {}, [1, 25]),
        ("Transpose", {"perm": [3, 2, 1, 0]}, None),
        ("Squeeze", {}, [0]),
        ("Unsqueeze", {}, [0]),
        ("Identity", {}, None),
    ],
)
def test_every_op_that_moves_values_lets_the_pair_pass(op: str, attrs: Any, more: Any) -> None:
    draw = Sketch(1, 1, 6, 6)
    extra = [] if more is None else [draw.constant("more", np.int64(more))]
    moved = draw.node(op, draw.conv(draw.x), *extra, **attrs)
    graph = rewritten(
        draw.done(draw.pair(moved, "next.input", 0.05, 7)), passes.quantize_before_commuting
    )
    assert ops(graph)["QuantizeLinear"] == 2


def test_the_pair_passes_a_whole_chain_of_such_ops() -> None:
    draw = Sketch(1, 1, 7, 7)
    moved = draw.conv(draw.x)
    for _ in range(2):
        moved = draw.node("MaxPool", moved, kernel_shape=[2, 2])
    graph = rewritten(
        draw.done(draw.pair(draw.node("Flatten", moved), "fc.input", 0.05)),
        passes.quantize_before_commuting,
    )
    readers = {node.outputs[0].name: node.outputs[0].outputs[0].op for node in graph.nodes[:-1]}
    assert readers["Conv_0.out"] == "QuantizeLinear"
    assert ops(graph)["QuantizeLinear"] == 4
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


@pytest.mark.parametrize("op", ["AveragePool", "Relu", "Sigmoid"])
def test_an_op_that_computes_is_not_passed(op: str) -> None:
    draw = Sketch(1, 1, 6, 6)
    attrs = {"kernel_shape": [2, 2]} if op == "AveragePool" else {}
    result = draw.pair(draw.node(op, draw.conv(draw.x), **attrs), "next.input")
    graph = rewritten(draw.done(result), passes.quantize_before_commuting)
    assert ops(graph)["QuantizeLinear"] == 1


def test_what_comes_straight_from_the_graphs_input_stays() -> None:
    draw = Sketch(1, 1, 6, 6)
    pooled = draw.node("MaxPool", draw.x, kernel_shape=[2, 2])
    graph = rewritten(draw.done(draw.pair(pooled, "in")), passes.quantize_before_commuting)
    assert ops(graph)["QuantizeLinear"] == 1


def test_a_pool_that_is_also_an_output_keeps_its_float_values() -> None:
    draw = Sketch(1, 1, 6, 6)
    pooled = draw.node("MaxPool", draw.conv(draw.x), kernel_shape=[2, 2])
    graph = rewritten(
        draw.done(pooled, draw.pair(pooled, "next.input")), passes.quantize_before_commuting
    )
    assert ops(graph)["QuantizeLinear"] == 1


@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_second_reader_keeps_its_float_values(where: str) -> None:
    draw = Sketch(1, 1, 6, 6)
    convolved = draw.conv(draw.x)
    pooled = draw.node("MaxPool", convolved, kernel_shape=[2, 2])
    other = draw.node("Neg", convolved if where == "before" else pooled)
    graph = rewritten(
        draw.done(other, draw.pair(pooled, "next.input")), passes.quantize_before_commuting
    )
    assert ops(graph)["QuantizeLinear"] == 1


def test_a_max_pool_with_padding_computes_the_same_on_codes() -> None:
    draw = Sketch(1, 1, 6, 6)
    pooled = draw.node(
        "MaxPool", draw.conv(draw.x), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]
    )
    graph = rewritten(
        draw.done(draw.pair(pooled, "next.input", 0.05, 200)), passes.quantize_before_commuting
    )
    assert ops(graph)["QuantizeLinear"] == 2


# merge_equal_pairs


def test_pairs_of_one_tensor_and_one_grid_become_one_q() -> None:
    draw = Sketch(6)
    half = draw.node("Neg", draw.x)
    sums = draw.node("Add", draw.pair(half, "a", 0.3, 9), draw.pair(half, "b", 0.3, 9))
    graph = rewritten(draw.done(sums), passes.merge_equal_pairs)
    assert ops(graph) == {"Neg": 1, "QuantizeLinear": 1, "DequantizeLinear": 2, "Add": 1}
    assert {node.name for node in graph.nodes} >= {"a/DequantizeLinear", "b/DequantizeLinear"}


@pytest.mark.parametrize(
    "other", [{"scale": 0.31}, {"point": 8}, {"kind": np.int8}], ids=["scale", "point", "type"]
)
def test_pairs_of_different_grids_stay(other: dict[str, Any]) -> None:
    draw = Sketch(6)
    grid = {"scale": 0.3, "point": 9, "kind": np.uint8}
    half = draw.node("Neg", draw.x)
    first, second = draw.pair(half, "a", **grid), draw.pair(half, "b", **(grid | other))
    graph = rewritten(draw.done(draw.node("Add", first, second)), passes.merge_equal_pairs)
    assert ops(graph)["QuantizeLinear"] == 2


def test_pairs_of_different_tensors_stay() -> None:
    draw = Sketch(6)
    sums = draw.node("Add", draw.pair(draw.x, "a"), draw.pair(draw.node("Neg", draw.x), "b"))
    graph = rewritten(draw.done(sums), passes.merge_equal_pairs)
    assert ops(graph)["QuantizeLinear"] == 2


@given(scales=st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_as_many_q_are_left_as_there_are_grids(scales: list[float]) -> None:
    draw = Sketch(6)
    values = [draw.pair(draw.x, f"s{index}", scale) for index, scale in enumerate(scales)]
    graph = rewritten(draw.done(draw.node("Sum", *values)), passes.merge_equal_pairs)
    assert ops(graph)["QuantizeLinear"] == len(set(scales))


# drop_requantization


def test_a_second_pair_of_the_same_grid_is_dropped() -> None:
    draw = Sketch(6)
    twice = draw.pair(draw.pair(draw.x, "a", 0.3, 9), "b", 0.3, 9)
    graph = rewritten(draw.done(twice), passes.drop_requantization)
    assert ops(graph) == {"QuantizeLinear": 1, "DequantizeLinear": 1}


def test_a_first_pair_with_readers_of_its_own_keeps_its_dequantizelinear() -> None:
    draw = Sketch(6)
    once = draw.pair(draw.x, "a", 0.3, 9)
    result = draw.node("Add", draw.node("Neg", once), draw.pair(once, "b", 0.3, 9))
    graph = rewritten(draw.done(result), passes.drop_requantization)
    assert ops(graph) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Neg": 1, "Add": 1}


def test_a_second_pair_of_another_grid_stays() -> None:
    draw = Sketch(6)
    twice = draw.pair(draw.pair(draw.x, "a", 0.3, 9), "b", 0.3, 10)
    graph = rewritten(draw.done(twice), passes.drop_requantization)
    assert ops(graph)["QuantizeLinear"] == 2


# drop_idle_relu


@pytest.mark.parametrize(("kind", "lowest"), [(np.uint8, 0), (np.int8, -128)])
def test_a_relu_of_values_that_cannot_be_negative_is_dropped(kind: Any, lowest: int) -> None:
    draw = Sketch(6)
    clamped = draw.node("Relu", draw.pair(draw.x, "a", 0.3, lowest, kind))
    graph = rewritten(draw.done(draw.node("Neg", clamped)), passes.drop_idle_relu)
    assert "Relu" not in ops(graph)


@pytest.mark.parametrize(("kind", "point"), [(np.uint8, 1), (np.int8, 0), (np.int8, -127)])
def test_a_relu_of_values_that_can_be_negative_stays(kind: Any, point: int) -> None:
    draw = Sketch(6)
    clamped = draw.node("Relu", draw.pair(draw.x, "a", 0.3, point, kind))
    graph = rewritten(draw.done(draw.node("Neg", clamped)), passes.drop_idle_relu)
    assert ops(graph)["Relu"] == 1


def test_a_relu_that_makes_an_output_of_the_graph_stays() -> None:
    draw = Sketch(6)
    graph = rewritten(draw.done(draw.node("Relu", draw.pair(draw.x, "a"))), passes.drop_idle_relu)
    assert ops(graph)["Relu"] == 1


# keep_float and hold_clamps


def float_conv(*, before: str = "", behind: str = "") -> gs.Graph:
    """DQ -> (before) -> Conv with a float weight -> (behind) -> Q."""
    draw = Sketch(1, 1, 8, 8)
    pool = {"kernel_shape": [2, 2], "strides": [1, 1]}
    x = draw.pair(draw.x, "in", 0.03, 100)
    for op in before.split():
        x = draw.node(op, x, **(pool if op == "MaxPool" else {}))
    x = draw.conv(x)
    for op in behind.split():
        extra = [draw.constant("lo", np.float32(0)), draw.constant("hi", np.float32(6))]
        x = draw.node(op, x, *(extra if op == "Clip" else []), **(pool if op == "MaxPool" else {}))
    return draw.done(draw.pair(x, "out", 0.05))


WAYS = [("", ""), ("", "Relu"), ("", "Clip"), ("MaxPool", ""), ("MaxPool", "Relu MaxPool")]


@pytest.mark.parametrize(("before", "behind"), WAYS)
def test_a_float_layer_between_dq_and_q_is_held_apart_by_a_sum(before: str, behind: str) -> None:
    graph = rewritten(float_conv(before=before, behind=behind), passes.keep_float)
    held = next(node for node in graph.nodes if node.op == "Conv").outputs[0].outputs
    assert [(node.op, len(node.inputs)) for node in held] == [("Sum", 1)]


@pytest.mark.parametrize(("before", "behind"), WAYS)
def test_onnxruntime_requantizes_a_float_layer_exactly_without_the_sum(
    before: str, behind: str
) -> None:
    bare, held = (float_conv(before=before, behind=behind) for _ in range(2))
    passes.keep_float(held)
    exact = results(bare)[0]
    np.testing.assert_array_equal(results(held, LEVELS.ORT_ENABLE_EXTENDED)[0], exact)
    assert np.any(results(bare, LEVELS.ORT_ENABLE_EXTENDED)[0] != exact)  # O26


def test_a_layer_with_an_integer_weight_needs_no_sum() -> None:
    draw = Sketch(1, 1, 8, 8)
    weight = draw.weight("conv.weight", [[[[1, -2], [3, 4]]]], [0.1], 0)
    convolved = draw.conv(draw.pair(draw.x, "in"), weight)
    graph = rewritten(draw.done(draw.pair(convolved, "out")), passes.keep_float)
    assert "Sum" not in ops(graph)


def test_a_float_layer_on_a_float_input_needs_no_sum() -> None:
    draw = Sketch(1, 1, 8, 8)
    graph = rewritten(draw.done(draw.pair(draw.conv(draw.x), "out")), passes.keep_float)
    assert "Sum" not in ops(graph)


def test_a_float_layer_that_no_q_follows_needs_no_sum() -> None:
    draw = Sketch(1, 1, 8, 8)
    convolved = draw.conv(draw.pair(draw.x, "in"))
    graph = rewritten(draw.done(draw.node("Neg", convolved)), passes.keep_float)
    assert "Sum" not in ops(graph)


def product(*behind: str, op: str = "Gemm", quantized: bool = True) -> gs.Graph:
    """DQ -> Gemm or MatMul with an int8 weight -> behind."""
    draw = Sketch(4, 3)
    codes = np.arange(6).reshape(3, 2) - 2
    values = draw.constant("fc.weight", np.float32(codes * 0.1))
    weight = draw.weight("fc.weight", codes, 0.1) if quantized else values
    x = draw.node(op, draw.pair(draw.x, "in", 0.03, 100), weight)
    for each in behind:
        if each == "Q":
            x = draw.pair(x, "out")
        else:
            ends = [draw.constant("lo", np.float32(0)), draw.constant("hi", np.float32(6))]
            x = draw.node(each, x, *(ends if each == "Clip" else []))
    return draw.done(x)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize("clamp", ["Relu", "Clip"])
def test_a_product_is_held_apart_from_a_clamp_that_float_reads(op: str, clamp: str) -> None:
    graph = rewritten(product(clamp, "Neg", op=op), passes.hold_clamps)
    assert [node.op for node in graph.nodes][-4:] == [op, "Sum", clamp, "Neg"]


@pytest.mark.parametrize("behind", [("Relu", "Q"), ("Neg",), ("Sigmoid", "Neg")])
def test_a_product_that_no_such_clamp_follows_is_left_alone(behind: tuple[str, ...]) -> None:
    graph = rewritten(product(*behind), passes.hold_clamps)
    assert "Sum" not in ops(graph)


def test_a_float_product_is_left_alone() -> None:
    graph = rewritten(product("Relu", "Neg", quantized=False), passes.hold_clamps)
    assert "Sum" not in ops(graph)


# all of them


@pytest.mark.parametrize("quantize_outputs", [True, False])
def test_all_passes_together_keep_what_a_branching_graph_computes(quantize_outputs: bool) -> None:
    def branching() -> gs.Graph:
        draw = Sketch(1, 1, 8, 8)
        stem = draw.node("Relu", draw.pair(draw.conv(draw.pair(draw.x, "in", 0.03, 100)), "stem"))
        pooled = draw.node("MaxPool", stem, kernel_shape=[2, 2])
        weight = draw.weight("w", [[[[1, -2], [3, 4]]]], [0.1], 0)
        left = draw.conv(draw.pair(pooled, "left", 0.1), weight)
        right = draw.conv(draw.pair(pooled, "right", 0.1))
        return draw.done(draw.node("Add", draw.pair(left, "a", 0.2), draw.pair(right, "b", 0.2)))

    graph, before = branching(), results(branching())
    for rewrite in passes.PASSES[quantize_outputs]:
        rewrite(graph)
    np.testing.assert_array_equal(results(graph)[0], before[0])
    graph.cleanup()
    wanted = {"Relu": 0 if quantize_outputs else 1, "QuantizeLinear": 5, "MaxPool": 1}
    assert {op: ops(graph)[op] for op in wanted} == wanted


def test_pairs_are_merged_before_pools_are_looked_at() -> None:
    order = passes.PASSES[True]
    assert order.index(passes.merge_equal_pairs) < order.index(passes.quantize_before_commuting)
