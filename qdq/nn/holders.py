"""Who holds the quantizers of a call: a child of the module that makes it, or of one around."""

import inspect

from torch import nn

from qdq.nn.attention import QuantAttention
from qdq.nn.calls import CallSite, QuantCall, QuantJoinCall, QuantProduct
from qdq.sites import CALL_SITES, INSIDE, owner

# What a forward that goes through its children calls: it would take our holder for one of them.
_ITERATING = frozenset({"children", "named_children", "_modules"})
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def holder_of(model: nn.Module, site: str) -> str | None:
    """The module that can hold the quantizers of a call: who makes it, or one around that one.

    Args:
        model: the root.
        site: `layer1.0.add_0`.

    Returns:
        Path of the nearest module whose forward does not go through its children; None where the
        root does so too.
    """
    path = owner(site)
    while _iterates(model.get_submodule(path)):
        if not path:
            return None
        path = owner(path)
    return path


def _iterates(module: nn.Module) -> bool:
    """Whether its forward, or a method that this calls, goes through its children."""
    if isinstance(module, _CONTAINERS):
        return True
    names, seen = {"forward"}, set[str]()
    while names:
        seen |= names
        called = {each for name in names for each in _names_in(type(module), name)}
        if not _ITERATING.isdisjoint(called):
            return True
        names = called - seen
    return False


def _names_in(kind: type[nn.Module], method: str) -> set[str]:
    """What a method of the user's classes asks objects for; nothing for other names.

    Those of nn.Module are left out: tensors have some of them too, `float`, `type`.
    """
    names: set[str] = set()
    for each in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        found = vars(each).get(method)
        code = getattr(inspect.unwrap(found), "__code__", None) if callable(found) else None
        if code is not None:
            names.update(code.co_names)
            if "super" not in code.co_names:
                break
    return names


def add_call_site(model: nn.Module, site: CallSite) -> QuantCall:
    """Quantize one call; `follow_calls` tells the mode whose forward runs.

    Args:
        model: the root.
        site: a call that `holder_of` finds a place for.
    """
    path = holder_of(model, site.name)
    assert path is not None
    module = model.get_submodule(path)
    if not hasattr(module, CALL_SITES):
        module.add_module(CALL_SITES, nn.ModuleDict())
    holder: nn.ModuleDict = getattr(module, CALL_SITES)
    inner = site.name[len(path) :].lstrip(".")
    holder[inner.replace(".", INSIDE)] = call = _build(site)
    holder.train(module.training)
    return call


def _build(site: CallSite) -> QuantCall:
    if site.weighted:
        return QuantProduct(site)
    if site.kind in ("avg_pool", "resize"):
        return QuantCall(site)
    return QuantAttention(site) if site.kind == "attention" else QuantJoinCall(site)
