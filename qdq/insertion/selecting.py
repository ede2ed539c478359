"""Which layers and calls of a model get quantizers, and why the others do not."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from qdq.errors import PolicyError
from qdq.insertion.kinds import kind_of_module
from qdq.insertion.policies import Policy
from qdq.nn import TensorQuantizer
from qdq.nn.attention import QuantAttention
from qdq.nn.calls import KINDS, CallSite
from qdq.nn.holders import holder_of
from qdq.nn.twins import TWINS, why_float
from qdq.records.decisions import Decision
from qdq.targets.opgraph import CALLED_AGAIN, POINTWISE, Op, OpGraph
from qdq.targets.regions import IN_REGION, why_no_site

# Calls that are no sites on any target, and why; the user may have a better way to write them.
_FLOAT_CALLS = {
    "multi_head_attention_forward": "torch computes this attention in one call that hides its "
    "products: those of nn.MultiheadAttention itself, no subclass, are sites",
    "mean": "no runtime has an integer kernel of a mean: the one over an image is also an "
    "nn.AdaptiveAvgPool2d(1), which has one (O13)",
    "resize_nearest": "gives values as they are, so that a pair behind it may as well stand before "
    "(T14, O12)",
}


@dataclass(frozen=True)
class Selection:
    """What insertion will do.

    Attributes:
        layers: modules to replace by their twins.
        calls: call sites, `layer1.0.add_0`.
        off: modules that have quantizers of their own, which the user wants left float.
        left: what stays float.
    """

    layers: dict[str, nn.Module]
    calls: tuple[CallSite, ...]
    off: tuple[nn.Module, ...]
    left: tuple[Decision, ...]


def select(model: nn.Module, graph: OpGraph | None, policy: Policy) -> Selection:
    """Apply the policy to every layer with a twin and every call that can be a site.

    Raises:
        PolicyError: a pattern fits nothing, or nothing is left to quantize.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    layers: dict[str, nn.Module] = {}
    left: list[Decision] = []
    off: list[nn.Module] = []
    for name, module in modules.items():
        refused = policy.refuses(name)
        if type(module) in TWINS.values():
            off += [module] if refused else []
        elif isinstance(module, tuple(TWINS)):
            why = refused or _why_not(name, module, graph)
            if why:
                left.append(Decision(name, "skip", why))
            else:
                layers[name] = module
    calls: list[CallSite] = []
    for op in _calls(graph, modules):
        why = policy.refuses(op.name) or _why_not_here(op, model, graph)
        if why:
            left.append(Decision(op.name, "skip", why))
        else:
            calls.append(_call_site(op))
    policy.finish()
    if (
        not layers
        and not calls
        and not any(isinstance(each, TensorQuantizer) for each in modules.values())
    ):
        known = ", ".join(sorted(float_class.__name__ for float_class in TWINS))
        raise PolicyError(
            "nothing is left to quantize",
            at=type(model).__name__,
            fix=f"qdq replaces layers of exactly these types: {known}; see ignore= and only=",
        )
    return Selection(layers, tuple(calls), tuple(off), tuple(left))


def _why_not(name: str, module: nn.Module, graph: OpGraph | None) -> str:
    """Why a layer nobody ignores must stay float; empty if nothing speaks against it."""
    if type(module) not in TWINS:
        if graph is not None and not _is_entered(name, graph):
            return (
                "the recorded forward never calls it: where its weight is read, that call decides"
            )
        base = next(each.__name__ for each in TWINS if isinstance(module, each))
        return f"a subclass of {base}, which may compute something else: its calls are sites"
    refused = why_float(module)
    if refused:
        return refused
    calls = 1 if graph is None else graph.calls.get(name, 0)
    if calls == 0:
        return "the recorded forward never calls it"
    if calls > 1 and kind_of_module(module) not in CALLED_AGAIN:
        return f"called {calls} times in one forward, and one range would have to serve all"
    return ""


def _is_entered(name: str, graph: OpGraph) -> bool:
    """Whether an op of the forward is the module, or lies in it."""
    return any(f"{op.name}.".startswith(f"{name}.".lstrip(".")) for op in graph.ops)


def _calls(graph: OpGraph | None, modules: Mapping[str, nn.Module]) -> list[Op]:
    """The calls of functions that can be sites, or that somebody might ask for; each name once."""
    if graph is None:
        return []
    named = {op.name: op for op in graph.ops if op.name not in modules}
    return [
        op
        for op in named.values()
        if _call_kind(op) in KINDS.values()
        or (op.kind in _FLOAT_CALLS and not graph.varying.isdisjoint(op.inputs))
    ]


def _call_kind(op: Op) -> str:
    """What the call is named after: `x @ w` with a constant w is a linear, and a `matmul_0`."""
    return op.name.rpartition(".")[2].rpartition("_")[0]


def _call_site(op: Op) -> CallSite:
    weighted = op.kind in ("linear", "conv", "conv_transpose")
    if op.kind == "attention":
        return CallSite(op.name, op.kind, QuantAttention.INPUTS)
    return CallSite(op.name, _call_kind(op), 1 if weighted else len(op.inputs), weighted)


def _why_not_here(op: Op, model: nn.Module, graph: OpGraph | None) -> str:
    assert graph is not None
    if graph.calls[op.name] > 1:
        calls = graph.calls[op.name]
        return f"called {calls} times in one forward, and one range would have to serve all"
    if op.kind == "other_einsum":
        return "an einsum that is no matrix product of two tensors"
    if op.kind.startswith("other_"):
        return "a scaled sum, integers among its operands, or a weight that is computed"
    if op.kind == "mean" and _normalizes(op, graph):
        return IN_REGION
    if op.kind in _FLOAT_CALLS:
        return _FLOAT_CALLS[op.kind]
    if holder_of(model, op.name) is None:
        return "every module around it goes through its children, and would meet the quantizers"
    if op.kind == "attention":
        return ""
    return why_no_site(op, graph)


def _normalizes(op: Op, graph: OpGraph) -> bool:
    """Whether its result meets the tensor again that it is a function of: `x - x.mean()`."""
    work = [op]
    while work:
        for reader in graph.readers.get(work.pop().outputs[0], ()):
            if reader.kind in POINTWISE and graph.is_pointwise(reader):
                if len(graph.varying.intersection(reader.inputs)) > 1:
                    return True
                work.append(reader)
    return False
