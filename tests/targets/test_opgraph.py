"""The neutral op graph: makers, readers and lengths of ways, on graphs written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdq.targets.opgraph import Op, OpGraph

# 0 -> a -> 1 -> b -> 2 -> join(1, 2) -> 3, and 1 leaves the model too
DIAMOND = OpGraph(
    (Op("a", "conv", (0,), (1,)), Op("b", "relu", (1,), (2,)), Op("join", "add", (1, 2), (3,))),
    (3, 1),
)


def test_a_tensor_knows_its_maker_and_an_input_of_the_model_has_none() -> None:
    assert {tensor: op.name for tensor, op in DIAMOND.producer.items()} == {
        1: "a",
        2: "b",
        3: "join",
    }
    assert 0 not in DIAMOND.producer


def test_readers_come_in_the_order_they_ran() -> None:
    names = {tensor: [op.name for op in ops] for tensor, ops in DIAMOND.readers.items()}
    assert names == {0: ["a"], 1: ["b", "join"], 2: ["join"]}


def test_an_op_that_reads_a_tensor_twice_is_one_reader() -> None:
    graph = OpGraph((Op("twice", "add", (0, 0), (1,)),), (1,))
    assert [op.name for op in graph.readers[0]] == ["twice"]


@pytest.mark.parametrize(("tensor", "name"), [(0, "a"), (1, None), (2, "join"), (3, None)])
def test_the_only_reader_is_one_op_and_not_the_model_itself(tensor: int, name: str | None) -> None:
    reader = DIAMOND.only_reader(tensor)
    assert (reader and reader.name) == name


def test_a_tensor_with_one_reader_that_leaves_the_model_has_no_only_reader() -> None:
    graph = OpGraph((Op("a", "conv", (0,), (1,)), Op("b", "relu", (1,), (2,))), (1, 2))
    assert graph.only_reader(1) is None


def test_calls_are_counted_by_name() -> None:
    shared = (Op("a", "conv", (0,), (1,)), Op("b", "relu", (1,), (2,)), Op("a", "conv", (2,), (3,)))
    assert OpGraph(shared, (3,)).calls == {"a": 2, "b": 1}


def test_depth_is_the_length_of_the_longest_way() -> None:
    assert DIAMOND.depth == {"a": 1, "b": 2, "join": 3}


@given(st.integers(1, 30))
def test_the_last_op_of_a_chain_is_as_deep_as_the_chain_is_long(length: int) -> None:
    ops = tuple(Op(f"op{index}", "relu", (index,), (index + 1,)) for index in range(length))
    assert OpGraph(ops, (length,)).depth[f"op{length - 1}"] == length


def test_a_graph_without_ops_has_nothing() -> None:
    empty = OpGraph((), (0,))
    assert (empty.producer, empty.readers, empty.calls, empty.depth) == ({}, {}, {}, {})


# x -> conv -> c -> sigmoid -> s -> mul(c, s) -> m, and a constant k that is added: m + k -> a
SILU = OpGraph(
    (
        Op("conv", "conv", (0,), (1,)),
        Op("sigmoid_0", "sigmoid", (1,), (2,)),
        Op("mul_0", "mul", (1, 2), (3,)),
        Op("exp_0", "exp", (9,), (8,)),
        Op("add_0", "add", (3, 8), (4,)),
        Op("add_1", "add", (4, 0), (5,)),
    ),
    (5,),
    (0,),
)


def test_what_depends_on_the_models_inputs_varies_and_all_else_is_constant() -> None:
    assert SILU.varying == {0, 1, 2, 3, 4, 5}
    assert {tensor for op in SILU.ops for tensor in op.inputs} - SILU.varying == {8, 9}


def test_the_root_of_a_tensor_is_what_it_is_a_pointwise_function_of() -> None:
    assert {tensor: SILU.roots[tensor] for tensor in (1, 2, 3, 4, 5)} == {
        1: 1,  # a convolution is a function of many elements
        2: 1,
        3: 1,
        4: 1,
        5: 5,  # of the convolution and of the model's input
    }


@pytest.mark.parametrize(
    ("name", "pointwise"), [("sigmoid_0", True), ("mul_0", True), ("add_0", True), ("add_1", False)]
)
def test_an_op_is_pointwise_if_it_reads_functions_of_one_tensor(name: str, pointwise: bool) -> None:
    op = next(each for each in SILU.ops if each.name == name)
    assert SILU.is_pointwise(op) is pointwise
