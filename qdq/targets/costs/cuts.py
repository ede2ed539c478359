"""The minimum cut of a network of pipes: which of two sides each node falls on. Pure."""

from collections.abc import Hashable, Mapping
from itertools import pairwise
from typing import TypeAlias, TypeVar

Node = TypeVar("Node", bound=Hashable)
Pipes: TypeAlias = dict[Node, dict[Node, float]]


def minimum_cut(
    capacities: Mapping[tuple[Node, Node], float], source: Node, sink: Node
) -> frozenset[Node]:
    """Nodes on the source's side of a cut of least capacity.

    Blocking flows along shortest ways (Dinic 1970); the cut is what can still be reached.

    Args:
        capacities: (from, to) -> what the pipe carries, >= 0.
        source: where the flow begins.
        sink: where it ends.
    """
    left: Pipes[Node] = {source: {}, sink: {}}
    for (start, end), capacity in capacities.items():
        left.setdefault(start, {})
        left[start][end] = left[start].get(end, 0.0) + capacity
        left.setdefault(end, {}).setdefault(start, 0.0)
    while sink in (levels := _levels(left, source)):
        waiting = {node: list(pipes) for node, pipes in left.items()}
        while way := _way(left, levels, waiting, source, sink):
            flow = min(left[start][end] for start, end in way)
            for start, end in way:
                left[start][end] -= flow
                left[end][start] += flow
    return frozenset(levels)


def _levels(left: Pipes[Node], source: Node) -> dict[Node, int]:
    """How many pipes with room each node is away; nodes that cannot be reached are missing."""
    levels, front = {source: 0}, [source]
    for node in front:  # grows while it is gone through
        for end, room in left[node].items():
            if room > 0 and end not in levels:
                levels[end] = levels[node] + 1
                front.append(end)
    return levels


def _way(
    left: Pipes[Node],
    levels: Mapping[Node, int],
    waiting: Mapping[Node, list[Node]],
    source: Node,
    sink: Node,
) -> list[tuple[Node, Node]]:
    """Pipes with room from source to sink, each one level on; empty where none is left.

    `waiting` has the pipes of each node not yet found blocked; it shrinks.
    """
    nodes = [source]
    while nodes[-1] != sink:
        here, ends = nodes[-1], waiting[nodes[-1]]
        while ends and not (left[here][ends[-1]] > 0 and levels.get(ends[-1]) == levels[here] + 1):
            ends.pop()
        if ends:
            nodes.append(ends[-1])
        elif len(nodes) == 1:
            return []
        else:
            nodes.pop()
            waiting[nodes[-1]].pop()
    return list(pairwise(nodes))
