"""What insertion left on a model, and switching its sites on and off for a target."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from qdq.errors import StepError
from qdq.insertion.undo import atomic
from qdq.nn import TensorQuantizer
from qdq.nn.operands import QuantOperands
from qdq.records.decisions import Decision, InsertReport
from qdq.sites import is_weight, owner, site_name
from qdq.spec import QuantSpec
from qdq.targets import Target, get
from qdq.targets.costs.nets import predict_ratio
from qdq.targets.opgraph import OpGraph
from qdq.targets.placement import place, region_end
from qdq.targets.target import TargetLike

_STATE = "_qdq_insertion"


@dataclass(frozen=True)
class Insertion:
    """Kept on the model, plain data: deep copies and pickles go along.

    Attributes:
        target: what the active sites are placed for.
        graph: one forward; None where none was recorded.
        left: modules left float and BatchNorms folded, with reasons.
        specs: site -> grid that the user asked for, whatever the target.
    """

    target: Target
    graph: OpGraph | None
    left: tuple[Decision, ...]
    specs: Mapping[str, QuantSpec] = field(default_factory=dict)


def insertion_of(model: nn.Module) -> Insertion:
    """What `insert` left on the model; StepError where it never ran."""
    state = found_insertion(model)
    if state is None:
        raise StepError(
            "nothing was inserted into this model",
            at=type(model).__name__,
            fix="call qdq.insert(model, example_inputs) first",
        )
    return state


def found_insertion(model: nn.Module) -> Insertion | None:
    """What `insert` left on the model; None where it never ran: all quantizers are by hand."""
    return getattr(model, _STATE, None)


@atomic
def retarget(model: nn.Module, target: TargetLike) -> InsertReport:
    """Place the same quantizers for another runtime. Ranges stay; scales follow from them.

    Args:
        model: after `insert`.
        target: a name or a Target.

    Raises:
        StepError: nothing was inserted, or the target needs a recorded forward and there is none.
        RegistryError: no such target.
    """
    return settle(model, replace(insertion_of(model), target=get(target)))


def settle(model: nn.Module, state: Insertion) -> InsertReport:
    """Make `state` the model's own and switch every site accordingly."""
    target = state.target
    if target.quantize_outputs and state.graph is None:
        raise StepError(
            f"target {target.name!r} must know who reads what, and torch.fx cannot follow this "
            "model's forward",
            at=type(model).__name__,
            fix="pass example_inputs to qdq.insert, so that one forward can be recorded",
        )
    setattr(model, _STATE, state)
    sites = {
        site_name(path): quantizer
        for path, quantizer in model.named_modules()
        if isinstance(quantizer, TensorQuantizer)
    }
    decisions: list[Decision] = []
    for decision in place(_roles(sites), state.graph, target, floating=_floating(sites)):
        quantizer = sites[decision.name]
        quantizer.site = decision.name
        quantizer.active = decision.action == "quantize"
        quantizer.spec = _grid_of(decision.name, quantizer.spec.keep_axis, state)
        own = quantizer.active and decision.name in state.specs
        why = f"{decision.why}; {quantizer.spec} by spec=" if own else decision.why
        decisions.append(replace(decision, why=why))
    for module in model.modules():
        if isinstance(module, QuantOperands):
            module.integer_bias = True
    _set_limits(sites, state.graph)
    on = {owner(each.name) for each in decisions if each.action == "quantize"}
    predicted = predict_ratio(state.graph, target.costs, on)
    return InsertReport(target.name, (*decisions, *state.left), predicted)


def _grid_of(site: str, axis: int | None, state: Insertion) -> QuantSpec:
    """The user's grid, else the target's; on a weight with the axis that keeps scales there."""
    own = state.specs.get(site)
    if not is_weight(site):
        return own or state.target.activation
    if own is not None and own.keep_axis is not None:
        return own
    return replace(own or state.target.weight, keep_axis=axis)


def refresh(model: nn.Module) -> None:
    """Place again after switches changed; a model with quantizers of its own is left alone."""
    state = found_insertion(model)
    if state is not None:
        settle(model, state)


def _roles(sites: dict[str, TensorQuantizer]) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for site in sites:
        roles.setdefault(owner(site), []).append(site.rpartition(".")[2])
    return roles


def _floating(sites: dict[str, TensorQuantizer]) -> frozenset[str]:
    """Modules that compute in float, because the user switched off something they multiply."""
    return frozenset(
        owner(site) for site, q in sites.items() if not q.enabled and not site.endswith("output")
    )


def _set_limits(sites: dict[str, TensorQuantizer], graph: OpGraph | None) -> None:
    """Tell each output site about the clamp that directly follows it."""
    for op in graph.ops if graph else ():
        quantizer = sites.get(f"{op.name}.output".lstrip("."))
        if graph and quantizer is not None:
            _, quantizer.limits = region_end(graph, op)
