"""Which ops of a net run in integers so that it takes least time."""

from collections.abc import Collection, Mapping

from qdq.errors import StepError
from qdq.targets.costs.cuts import minimum_cut
from qdq.targets.costs.nets import UNMEASURED, PricedNet, price_net
from qdq.targets.costs.tables import cost_table
from qdq.targets.opgraph import OpGraph

_ROUNDS = 4  # of choosing, each with the padding that the choice before leaves
_GAIN = 0.97  # of the float time; what gains less is within the error of the prediction

# The sides of the cut, as nodes; names of ops are text, and tensors are (number, which way).
_INTEGER, _FLOAT = ("integer",), ("float",)


def fastest_integer(net: PricedNet, able: Collection[str]) -> frozenset[str]:
    """The ops that run in integers in the fastest mixture, as far as it is predicted.

    An op costs what it takes in its numbers, a tensor that is made in the one and read in the
    other what the change takes. Each mixture is a cut between the integer and the float ops, and
    the fastest is the minimum cut; channels are padded as the mixture before allows.

    Args:
        net: the forward and its costs.
        able: names of the ops that can run in integers.

    Returns:
        None of them where no mixture is clearly faster than float.
    """
    able = frozenset(able).intersection(net.steps)
    seen, mixture = [frozenset[str](), able], able
    for _ in range(_ROUNDS):
        mixture = _cut(net, able, net.integer_ns(able, padded_for=mixture))
        if mixture in seen:
            break
        seen.append(mixture)
    best = min(seen, key=net.total)
    return best if net.total(best) < _GAIN * net.total() else frozenset()


def slower_in_integers(graph: OpGraph, costs: str, able: Collection[str]) -> dict[str, str]:
    """Ops that the fastest mixture leaves float, and why; those that nobody measured are such.

    Args:
        graph: one forward, with shapes.
        costs: name or path of a table.
        able: names of the ops that can run in integers.

    Raises:
        StepError: the forward was followed without data, so that no shapes are known.
        InputError: there is no such table.
    """
    net = price_net(graph, cost_table(costs))
    if net is None:
        raise StepError(
            "the fastest placement depends on the sizes of tensors, which are not known",
            fix="pass example_inputs to qdq.insert, or a file with fixed sizes; or fastest=False",
        )
    kinds = {name: calls[0].kind for name, calls in net.steps.items() if name in able}
    unknown = {
        name: f"nobody measured {kind.replace('_', ' ')}, so it stays float"
        for name, kind in kinds.items()
        if kind in UNMEASURED
    }
    integer = fastest_integer(net, kinds.keys() - unknown)
    whole = "" if integer else "no mixture is clearly faster than the whole net in float: "
    slower = {
        name: unknown.get(name) or whole + _why(net, name, integer)
        for name in kinds
        if name not in integer
    }
    return {name: f"{why} ({costs})" for name, why in slower.items()}


def _why(net: PricedNet, name: str, integer: Collection[str]) -> str:
    """What an op of a mixture takes in float, and what it would take in integers."""
    more = {*integer, name}
    if name not in net.running(more):
        return "something float reads it, and it has no pair behind it"
    own, whole = net.float_ns[name], net.total(more) - net.total(integer)
    alone = net.integer_ns(more)[name]
    around = whole + own - alone
    return (
        f"predicted {own / 1e3:.1f} us in float, and in integers {alone / 1e3:.1f} us "
        f"with {around / 1e3:+.1f} us around it"
    )


def _cut(net: PricedNet, able: Collection[str], own: Mapping[str, float]) -> frozenset[str]:
    """The fastest mixture if each op takes this long in integers."""
    pipes: dict[tuple[object, object], float] = {}
    for name, ns in net.float_ns.items():
        pipes[_INTEGER, name] = ns if name in able else 0.0
        pipes[name, _FLOAT] = own[name] if name in able else float("inf")
    for edge in net.edges:
        maker, readers = edge.maker or _FLOAT, [each or _FLOAT for each in edge.readers]
        codes, floats = (edge.tensor, "codes"), (edge.tensor, "floats")
        pipes[codes, maker] = edge.enter
        pipes[maker, floats] = edge.leave
        for reader in readers:
            pipes[reader, codes] = float("inf")
            pipes[floats, reader] = float("inf")
    return frozenset(net.steps).intersection(minimum_cut(pipes, _INTEGER, _FLOAT))
