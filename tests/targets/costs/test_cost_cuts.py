"""Minimum cuts, against every cut there is."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from qdq.targets.costs.cuts import minimum_cut

INNER = range(1, 5)
NODES = (0, *INNER, 5)  # 0 the source, 5 the sink
PIPES = st.dictionaries(
    st.sampled_from([(a, b) for a in NODES for b in NODES if a != b]),
    st.integers(0, 9).map(float) | st.just(float("inf")),
    max_size=18,
)


def weight(pipes: dict[tuple[int, int], float], side: frozenset[int]) -> float:
    return sum(each for (a, b), each in pipes.items() if a in side and b not in side)


@given(PIPES)
def test_no_cut_is_cheaper(pipes: dict[tuple[int, int], float]) -> None:
    pipes = {ends: each for ends, each in pipes.items() if ends != (0, 5) or each < 10}
    sides = [
        frozenset({0, *(node for node, kept in zip(INNER, choice, strict=True) if kept)})
        for choice in product((False, True), repeat=len(INNER))
    ]
    least = min(weight(pipes, side) for side in sides)
    if least < float("inf"):
        found = minimum_cut(pipes, 0, 5)
        assert 0 in found
        assert 5 not in found
        assert weight(pipes, found) == least


def test_a_long_chain_is_cut_at_its_thinnest_pipe() -> None:
    thin = 1234
    pipes = {(node, node + 1): 1.0 if node == thin else 2.0 for node in range(3000)}
    assert minimum_cut(pipes, 0, 3000) == frozenset(range(thin + 1))
