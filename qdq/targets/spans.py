"""Everything between two ops of the neutral graph: what a from-to pattern means."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from qdq.errors import PolicyError
from qdq.targets.opgraph import Op, OpGraph


def between(graph: OpGraph, first: str, last: str) -> frozenset[str]:
    """Names of all that lies on a way from `first` to `last`, both included.

    An op lies on a way if it computes with what `first` makes, however far behind it, and `last`
    computes with what it makes: a skip connection inside a stretch belongs to it, a branch that
    leaves it for another output does not.

    Args:
        graph: one forward.
        first: an op, or a module that ops lie in: all of them are where the ways begin.
        last: likewise where they end.

    Returns:
        `first`, `last`, the names of the ops in and between them, and the modules all of whose ops
        are among these.

    Raises:
        PolicyError: the forward calls no op of an end, or no way leads from the one to the other.
    """
    begin, end = (_ops_in(graph, name, at=f"{first}->{last}") for name in (first, last))
    after, before = _after(graph, begin), _before(graph, end)
    if after.isdisjoint(end):
        turned = not _after(graph, end).isdisjoint(begin)
        raise PolicyError(
            f"no way leads from {first!r} to {last!r}",
            at=f"{first}->{last}",
            fix=f"turn it round: '{last}->{first}'"
            if turned
            else "name two modules of which the second computes with what the first makes",
        )
    span = after & before | begin | end
    whole = _lineages(span) - _lineages(set(graph.ops) - span)
    return frozenset({first, last, *(op.name for op in span), *whole})


def _ops_in(graph: OpGraph, name: str, *, at: str) -> set[Op]:
    found = {op for op in graph.ops if f"{op.name}.".startswith(f"{name}.")}
    if not found:
        near = get_close_matches(name, sorted(_lineages(graph.ops)), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PolicyError(
            f"the forward never calls {name!r}, nor anything in it",
            at=at,
            fix=hint + "write the names of two modules or call sites that it calls",
        )
    return found


def _lineages(ops: Iterable[Op]) -> set[str]:
    """Names of the ops, and of every module that one of them lies in."""
    parts = [op.name.split(".") for op in ops]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}


def _after(graph: OpGraph, begin: Collection[Op]) -> set[Op]:
    """These ops, and all that compute with what they make."""
    found: set[Op] = set()
    made: set[int] = set()
    for op in graph.ops:
        if op in begin or not made.isdisjoint(op.inputs):
            found.add(op)
            made.update(op.outputs)
    return found


def _before(graph: OpGraph, end: Collection[Op]) -> set[Op]:
    """These ops, and all that make what they compute with."""
    found: set[Op] = set()
    read: set[int] = set()
    for op in reversed(graph.ops):
        if op in end or not read.isdisjoint(op.outputs):
            found.add(op)
            read.update(op.inputs)
    return found
