"""Fold every BatchNorm that directly follows a convolution or linear layer into that layer."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from torch import nn

from qdq.errors import StepError
from qdq.insertion.following import follow
from qdq.insertion.kinds import BATCH_NORMS
from qdq.insertion.undo import atomic
from qdq.nn.twins import TWINS
from qdq.numerics.batchnorm import fold
from qdq.records.decisions import Decision, FuseReport
from qdq.targets.opgraph import Op, OpGraph

# Exact types and the axis of their weight that holds output channels.
_FLOAT: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear), 0),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), 1),
}
# Layer -> the axis of its weight that holds the output channels.
_FOLDABLE = _FLOAT | {TWINS[kind]: axis for kind, axis in _FLOAT.items()}


@atomic
def fuse(model: nn.Module, *, example_inputs: object = None) -> FuseReport:
    """Fold BatchNorms, in place. The model computes what it did, to float rounding.

    Args:
        model: in eval mode. Its folded BatchNorms become `nn.Identity`; one of a subclass that
            goes on with layers of its own (an activation) becomes an `nn.Sequential` of those.
        example_inputs: a tensor, tuple or dict to record one forward with; without them the
            forward is followed by `torch.fx`, which stops at data-dependent control flow.

    Returns:
        One decision per BatchNorm, with the reason where it stays.

    Raises:
        StepError: the model is in training mode, or the forward cannot be followed.
        InputError: the model does not take these inputs.
    """
    if not any(isinstance(each, BATCH_NORMS) for each in model.modules()):
        return FuseReport(())
    require_eval(model, "fuse")
    graph = follow(model, example_inputs)
    if graph is None:
        raise StepError(
            "torch.fx cannot follow this model's forward",
            at=type(model).__name__,
            fix="pass example_inputs=..., so that one forward can be recorded instead",
        )
    return FuseReport(fold_norms(model, graph))


def require_eval(model: nn.Module, step: str) -> None:
    """StepError if any BatchNorm or dropout of the model would behave as in training."""
    training = [name for name, each in model.named_modules() if each.training]
    if training:
        raise StepError(
            f"{step} needs the model in eval mode, and it is in training mode",
            at=training[0] or type(model).__name__,
            fix="call model.eval() first",
        )


def fold_norms(model: nn.Module, graph: OpGraph) -> tuple[Decision, ...]:
    """Fold what can be of all BatchNorms; one decision for each.

    Args:
        model: in eval mode.
        graph: one forward of it.
    """
    modules = dict(model.named_modules())
    owners = Counter(
        id(parameter)
        for module in modules.values()
        for parameter in module.parameters(recurse=False)
    )
    rows = []
    gone: dict[nn.Module, nn.Module] = {}
    for name, norm in modules.items():
        if isinstance(norm, BATCH_NORMS):
            layer_name, why_not = _layer_before(name, modules, owners, graph)
            if layer_name is None:
                rows.append(Decision(name, "skip", why_not))
            else:
                _fold_into(modules[layer_name], norm, owners)
                gone[norm] = _rest(name, norm, graph)
                rows.append(Decision(name, "fold", f"folded into {layer_name}"))
    for parent in modules.values():
        for child, norm in parent._modules.items():
            if norm in gone:
                setattr(parent, child, gone[norm])
    return tuple(rows)


def without_norms(graph: OpGraph, folded: Iterable[str]) -> OpGraph:
    """The same forward after these BatchNorms were folded: they pass on what they read."""
    gone = {op for name in folded for op in (name, _inner_call(name))}
    return replace(
        graph,
        ops=tuple(
            replace(op, kind="identity", inputs=op.inputs[:1]) if op.name in gone else op
            for op in graph.ops
        ),
    )


def _inner_call(name: str) -> str:
    """The call in which a subclass of a BatchNorm normalizes."""
    return f"{name}.batch_norm_0"


def _rest(name: str, norm: nn.Module, graph: OpGraph) -> nn.Module:
    """What a folded BatchNorm still does: nothing, or what its subclass does behind it."""
    behind = _children_behind(name, norm, graph)
    if not behind:
        return nn.Identity().eval()
    return nn.Sequential(OrderedDict((each, norm.get_submodule(each)) for each in behind)).eval()


def _children_behind(name: str, norm: nn.Module, graph: OpGraph) -> list[str] | None:
    """The children through which it sends what it has normalized, one after another.

    None where it does anything else, by itself or with a child called twice.
    """
    first, *later = [op for op in graph.ops if f"{op.name}.".startswith(f"{name}.")]
    if first.name not in (name, _inner_call(name)):
        return None
    behind: list[str] = []
    tensor = first.outputs[0]
    for child, calls in groupby(later, lambda op: op.name[len(name) + 1 :].partition(".")[0]):
        ops = list(calls)
        made = {each for op in ops for each in op.outputs}
        read = graph.varying.intersection(each for op in ops for each in op.inputs) - made
        known = child in norm._modules and child not in behind
        alone = tensor not in graph.outputs and set(graph.readers[tensor]).issubset(ops)
        if not known or not alone or read != {tensor}:
            return None
        behind.append(child)
        tensor = ops[-1].outputs[0]
    return behind


def _fold_into(layer: Any, norm: Any, owners: Counter[int]) -> None:
    weight, bias = fold(
        layer.weight.detach(),
        None if layer.bias is None else layer.bias.detach(),
        mean=norm.running_mean,
        variance=norm.running_var,
        eps=norm.eps,
        gamma=norm.weight,
        beta=norm.bias,
        channel_axis=_FOLDABLE[type(layer)],
    )
    layer.weight.data = weight
    if layer.bias is not None and owners[id(layer.bias)] == 1:
        layer.bias.data = bias
    else:
        layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)


def _layer_before(
    name: str, modules: Mapping[str, nn.Module], owners: Counter[int], graph: OpGraph
) -> tuple[str | None, str]:
    """(the layer this BatchNorm can be folded into, ""), or (None, why there is none)."""
    calls = [op for op in graph.ops if op.name in (name, _inner_call(name))]
    if len(calls) != 1:
        return None, f"it is called {len(calls)} times in one forward"
    if _children_behind(name, modules[name], graph) is None:
        kind = type(modules[name]).__name__
        return None, f"a {kind} does more than to normalize and call its children in a row"
    before = graph.producer.get(calls[0].inputs[0])
    if before is None or before.name not in modules:
        return None, "what comes before it is no layer"
    layer = modules[before.name]
    if type(layer) not in _FOLDABLE:
        return None, f"{before.name}, before it, is a {type(layer).__name__}"
    why_not = _obstacle(layer, modules[name], before, owners, graph)
    return (None, why_not) if why_not else (before.name, "")


def _obstacle(layer: Any, norm: Any, before: Op, owners: Counter[int], graph: OpGraph) -> str:
    if graph.calls[before.name] != 1:
        return f"{before.name} is called {graph.calls[before.name]} times in one forward"
    if graph.only_reader(before.outputs[0]) is None:
        return f"something else reads the output of {before.name} too"
    if norm.running_mean is None:
        return "it keeps no running statistics"
    if _FOLDABLE[type(layer)] and layer.groups != 1:
        return f"{before.name} is a transposed convolution in groups"
    if isinstance(layer, nn.Linear) and before.rank != 2:
        return "it may not normalize the features of this Linear: pass 2-D example_inputs"
    if owners[id(layer.weight)] != 1:
        return f"the weight of {before.name} is tied to another layer's"
    return ""
