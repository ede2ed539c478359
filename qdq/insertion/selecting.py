"""Which layers and additions of a model get quantizers, and why the others do not."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from qdq.errors import PolicyError
from qdq.nn import TensorQuantizer
from qdq.nn.callsites import CONTAINERS
from qdq.nn.twins import TWINS
from qdq.records.decisions import Decision
from qdq.sites import Matcher, Patterns, owner
from qdq.targets.opgraph import Op, OpGraph
from qdq.targets.placement import fused_branch


@dataclass(frozen=True)
class Selection:
    """What insertion will do.

    Attributes:
        layers: modules to replace by their twins.
        additions: call sites, `layer1.0.add_0`.
        left: what stays float.
    """

    layers: dict[str, nn.Module]
    additions: tuple[str, ...]
    left: tuple[Decision, ...]


def select(model: nn.Module, graph: OpGraph | None, ignore: Patterns, only: Patterns) -> Selection:
    """Apply the policy to every layer with a twin and every residual addition.

    Raises:
        PolicyError: a pattern fits nothing, or nothing is left to quantize.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    policy = _Policy(ignore, only, modules)
    layers: dict[str, nn.Module] = {}
    left: list[Decision] = []
    for name, module in modules.items():
        refused = policy.refuses(name)
        if isinstance(module, tuple(TWINS)):
            why = refused or _why_not(name, module, graph)
            if why:
                left.append(Decision(name, "skip", why))
            else:
                layers[name] = module
    additions: list[str] = []
    for op in _residual_additions(graph, modules, layers):
        why = policy.refuses(op.name) or _why_not_here(op, modules, graph)
        if why:
            left.append(Decision(op.name, "skip", why))
        else:
            additions.append(op.name)
    policy.finish()
    if not layers and not any(isinstance(each, TensorQuantizer) for each in modules.values()):
        known = ", ".join(sorted(float_class.__name__ for float_class in TWINS))
        raise PolicyError(
            "nothing is left to quantize",
            at=type(model).__name__,
            fix=f"qdq replaces layers of exactly these types: {known}; see ignore= and only=",
        )
    return Selection(layers, tuple(additions), tuple(left))


class _Policy:
    """ignore= and only=, asked name by name."""

    def __init__(self, ignore: Patterns, only: Patterns, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._ignore, self._only = Matcher(ignore, what="ignore"), Matcher(only, what="only")
        self._asked: list[str] = []

    def refuses(self, name: str) -> str:
        """Why the user wants this left float; empty if they do not."""
        self._asked.append(name)
        ignored, wanted = (each.find(name, self._modules) for each in (self._ignore, self._only))
        if ignored:
            return f"ignored by {ignored}"
        return "only= does not name it" if self._only and not wanted else ""

    def finish(self) -> None:
        """PolicyError for a pattern that fitted nothing."""
        for matcher in (self._ignore, self._only):
            matcher.refuse_idle(name for name in self._asked if name)


def _why_not(name: str, module: nn.Module, graph: OpGraph | None) -> str:
    """Why a layer nobody ignores must stay float; empty if nothing speaks against it."""
    if type(module) not in TWINS:
        base = next(each.__name__ for each in TWINS if isinstance(module, each))
        return f"a subclass of {base}, which may compute something else: register a twin for it"
    calls = 1 if graph is None else graph.calls.get(name, 0)
    if calls == 0:
        return "the recorded forward never calls it"
    if calls > 1:
        return f"called {calls} times in one forward, and one range would have to serve all"
    return ""


def _residual_additions(
    graph: OpGraph | None, modules: Mapping[str, nn.Module], layers: Mapping[str, nn.Module]
) -> list[Op]:
    """Additions by `+` that end in a convolution of ours on at least one side."""
    if graph is None:
        return []
    integer = {name: () for name in layers}
    return [
        op
        for op in dict((op.name, op) for op in graph.ops if op.kind == "add").values()
        if op.name not in modules and fused_branch(op, graph, integer, kinds={"conv"}) is not None
    ]


def _why_not_here(op: Op, modules: Mapping[str, nn.Module], graph: OpGraph | None) -> str:
    calls = graph.calls[op.name] if graph else 0
    if calls > 1:
        return f"called {calls} times in one forward, and one range would have to serve all"
    if len(op.inputs) != 2 or (graph and not _varying(graph).issuperset(op.inputs)):
        return "one side is a constant (T23)"
    if isinstance(modules[owner(op.name)], CONTAINERS):
        return "it is called in a container's own forward, which iterates over its children"
    return ""


def _varying(graph: OpGraph) -> set[int]:
    """The tensors that depend on the model's inputs; all others are constants."""
    found = set(graph.inputs)
    for op in graph.ops:
        if not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return found
