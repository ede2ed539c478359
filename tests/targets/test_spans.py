"""From-to: what lies between two ops of the neutral graph."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdq.errors import PolicyError
from qdq.targets.opgraph import Op, OpGraph
from qdq.targets.spans import between


def graph_of(**ways: str) -> OpGraph:
    """Ops in order: name -> names of the ops it reads, "" for the model's input."""
    made: dict[str, int] = {"": 0}
    ops = []
    for key, reads in ways.items():
        name = key.replace("__", ".")
        inputs = tuple(made[each] for each in reads.split(" "))
        made[name] = len(made)
        ops.append(Op(name, "op", inputs, (made[name],)))
    return OpGraph(tuple(ops), (len(ops),), (0,))


# stem -> block (conv1 -> relu_0 -> conv2 -> add_0, with a skip) -> head; stem -> side
NET = graph_of(
    stem="",
    block__conv1="stem",
    block__relu_0="block.conv1",
    block__conv2="block.relu_0",
    block__add_0="block.conv2 stem",
    side__conv="stem",
    flatten_0="block.add_0",
    head="flatten_0",
    cat_0="head side.conv",
)
BLOCK = {"block", "block.conv1", "block.relu_0", "block.conv2", "block.add_0"}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("block.conv1", "block.conv2", {"block.conv1", "block.relu_0", "block.conv2"}),
        ("block.conv2", "head", {"block.conv2", "block.add_0", "flatten_0", "head"}),
        ("block", "head", BLOCK | {"flatten_0", "head"}),
        ("stem", "block", BLOCK | {"stem"}),
        ("stem", "flatten_0", BLOCK | {"stem", "flatten_0"}),
        ("head", "head", {"head"}),
        ("block", "block.relu_0", BLOCK),
        ("side", "cat_0", {"side", "side.conv", "cat_0"}),
    ],
)
def test_a_way_holds_both_ends_and_all_between_them_and_no_branch_that_leaves_it(
    first: str, last: str, expected: set[str]
) -> None:
    assert between(NET, first, last) == expected


def test_a_way_through_everything_holds_everything() -> None:
    assert between(NET, "stem", "cat_0") == {op.name for op in NET.ops} | {"block", "side"}


def test_a_module_whose_ops_lie_between_in_part_is_not_among_the_names() -> None:
    found = between(NET, "block.conv1", "block.conv2")
    assert "block" not in found
    assert "block" in between(NET, "stem", "head")


def test_a_module_called_twice_is_meant_where_one_of_its_calls_is() -> None:
    calls = (Op("a", "op", (0,), (1,)), Op("act", "op", (1,), (2,)), Op("b", "op", (2,), (3,)))
    graph = OpGraph((*calls, Op("act", "op", (3,), (4,))), (4,), (0,))
    assert between(graph, "a", "b") == {"a", "act", "b"}


REFUSED = {
    "an end that is not there": (
        ("block", "haed"),
        "the forward never calls 'haed', nor anything in it\n  at:  block->haed\n"
        "  fix: did you mean 'head'? write the names of two modules or call sites that it calls",
    ),
    "an end like nothing there": (
        ("zzz", "head"),
        "the forward never calls 'zzz', nor anything in it\n  at:  zzz->head\n"
        "  fix: write the names of two modules or call sites that it calls",
    ),
    "a beginning of a name": (
        ("blo", "head"),
        "the forward never calls 'blo', nor anything in it\n  at:  blo->head\n"
        "  fix: did you mean 'block'? write the names of two modules or call sites that it calls",
    ),
    "the wrong way round": (
        ("head", "stem"),
        "no way leads from 'head' to 'stem'\n  at:  head->stem\n  fix: turn it round: 'stem->head'",
    ),
    "two branches": (
        ("side", "head"),
        "no way leads from 'side' to 'head'\n  at:  side->head\n  fix: name two modules of which "
        "the second computes with what the first makes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ends_without_a_way_are_refused_with_a_fix(case: str) -> None:
    (first, last), text = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        between(NET, first, last)
    assert str(caught.value) == text


@st.composite
def wired(draw: st.DrawFn) -> np.ndarray:
    """(N, N) bool: op j reads what op i < j makes."""
    count = draw(st.integers(2, 8))
    bits = draw(st.lists(st.booleans(), min_size=count * count, max_size=count * count))
    return np.triu(np.array(bits).reshape(count, count), 1)


@given(wired(), st.data())
def test_it_is_what_the_transitive_closure_says(edges: np.ndarray, data: st.DataObject) -> None:
    count = len(edges)
    names = [f"m{index // 2}.op_{index}" for index in range(count)]
    ops = tuple(
        Op(names[j], "op", tuple(np.flatnonzero(edges[:, j]) + 1) or (0,), (j + 1,))
        for j in range(count)
    )
    modules = sorted({name.split(".")[0] for name in names})
    first, last = (data.draw(st.sampled_from([*names, *modules])) for _ in range(2))
    reach = np.linalg.matrix_power(np.eye(count) + edges, count) > 0
    begin, end = ([n == e or n.startswith(f"{e}.") for n in names] for e in (first, last))
    after, before = reach[begin].any(0), reach[:, end].any(1)
    graph = OpGraph(ops, (count,), (0,))
    if not (after & end).any():
        with pytest.raises(PolicyError, match="no way leads"):
            between(graph, first, last)
        return
    expected = (after & before) | begin | end
    found = between(graph, first, last)
    assert found & set(names) == {
        name for name, inside in zip(names, expected, strict=True) if inside
    }
    for module in modules:
        whole = all(i for n, i in zip(names, expected, strict=True) if n.startswith(f"{module}."))
        assert (module in found) == (whole or module in (first, last))
