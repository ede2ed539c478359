"""Streams: tensors whose channels can be scaled without changing what a model computes."""

from collections import defaultdict
from dataclasses import dataclass

from torch import nn

from qdq.errors import StepError
from qdq.insertion.placing import insertion_of
from qdq.nn import QuantWeighted
from qdq.nn.twins import TWINS
from qdq.repair.layers import repairable
from qdq.sites import owner
from qdq.targets.opgraph import Op, OpGraph

# Exact types: a subclass may add something that no factor scales.
_LAYERS = frozenset(TWINS[kind] for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
# What keeps channels apart and gives k y for k x with k > 0: f(x / s) = f(x) / s. ReLU6 does not.
HOMOGENEOUS = frozenset({"add", "avg_pool", "identity", "leaky_relu", "max_pool", "prelu", "relu"})
# They go over the last axes, where linear layers have their channels.
_POOLS = frozenset({"avg_pool", "max_pool"})


@dataclass(frozen=True)
class Stream:
    """Tensors that ops which are homogeneous tie together: their channels are scaled as one.

    Attributes:
        producers: names of what makes them, layers with weights or normalizations.
        consumers: names of the layers that multiply them.
    """

    producers: tuple[str, ...]
    consumers: tuple[str, ...]


def streams(model: nn.Module) -> tuple[Stream, ...]:
    """Every stream of which all makers and readers are known layers; none touches another.

    Args:
        model: after `insert`.

    Raises:
        StepError: nothing inserted, or no recorded forward.
    """
    graph = _graph_of(model)
    readers = layers_of(model)
    makers: dict[str, nn.Module] = {**norms_of(model), **readers}
    tied = _tied(graph)
    ends: dict[int, tuple[list[Op], list[Op]]] = defaultdict(lambda: ([], []))
    refused = {tied[tensor] for tensor in (*graph.inputs, *graph.outputs) if tensor in tied}
    pooled = {
        tied[op.outputs[0]] for op in graph.ops if op.kind in _POOLS and op.outputs[0] in tied
    }
    for op in graph.ops:
        if _scaled_by(op, graph):
            continue
        for side, known, numbers in ((0, makers, op.outputs), (1, readers, op.inputs)):
            for tensor in {tied[each] for each in numbers if each in tied}:
                ends[tensor][side].append(op)
                if op.name not in known or graph.calls[op.name] != 1:
                    refused.add(tensor)
    found = []
    for tensor, (made, read) in ends.items():
        if made and read and tensor not in refused:
            widths = {len(makers[op.name].weight) for op in made}  # type: ignore[arg-type]
            widths |= {channels_read(readers[op.name]) for op in read}
            layouts = {(op.kind == "conv", op.rank) for op in (*made, *read)}
            pools_channels = tensor in pooled and made[0].kind != "conv"
            if len(widths) == len(layouts) == 1 and not pools_channels:
                found.append(Stream(tuple(op.name for op in made), tuple(op.name for op in read)))
    return tuple(found)


def _graph_of(model: nn.Module) -> OpGraph:
    graph = insertion_of(model).graph
    if graph is None:
        raise StepError(
            "nobody knows which layer reads what: torch.fx cannot follow this model's forward",
            at=type(model).__name__,
            fix="pass example_inputs to qdq.insert, so that one forward can be recorded",
        )
    return graph


def layers_of(model: nn.Module) -> dict[str, QuantWeighted]:
    """Convolutions and linear layers by name, that are quantized and share no parameter.

    A weight that a hook computes anew in every forward (`weight_norm`) is none to be scaled.
    """
    return {
        owner(site): layer
        for site, layer in repairable(model).items()
        if type(layer) in _LAYERS and "weight" in layer._parameters
    }


def norms_of(model: nn.Module) -> dict[str, nn.LayerNorm]:
    """Op -> LayerNorm over the last axis alone, with an affine part of its own."""
    modules = dict(model.named_modules())
    held = [id(each) for norm in modules.values() for each in norm.parameters(recurse=False)]
    found = {}
    for op in _graph_of(model).ops:
        norm = modules.get(op.name if op.name in modules else owner(op.name))
        if type(norm) is nn.LayerNorm and norm.elementwise_affine:
            last_axis = len(norm.normalized_shape) == 1
            if last_axis and all(held.count(id(each)) == 1 for each in norm.parameters()):
                found[op.name] = norm
    return found


def _scaled_by(op: Op, graph: OpGraph) -> tuple[int, ...]:
    """The tensors that have to be scaled together for what the op makes to be scaled so too."""
    if op.kind not in HOMOGENEOUS or len(op.inputs) < (2 if op.kind == "add" else 1):
        return ()  # `x + 1` reads one tensor
    read = op.inputs if op.kind == "add" else op.inputs[:1]
    return read if graph.varying.issuperset(read) else ()


def _tied(graph: OpGraph) -> dict[int, int]:
    """Tensor -> a number that all have in common that are scaled together."""
    above: dict[int, int] = {}

    def top(tensor: int) -> int:
        while tensor in above:
            tensor = above[tensor]
        return tensor

    for op in graph.ops:
        for tensor in _scaled_by(op, graph):
            if top(tensor) != top(op.outputs[0]):
                above[top(tensor)] = top(op.outputs[0])
    return {tensor: top(tensor) for tensor in graph.varying}


def channels_read(layer: QuantWeighted) -> int:
    """Channels of the input of a convolution or linear layer."""
    groups: int = getattr(layer, "groups", 1)
    return layer.weight.shape[1] * groups
