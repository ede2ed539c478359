"""A quantized model in one safetensors file, and back into a fresh float model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from qdq.errors import InputError
from qdq.insertion.placing import Insertion, insertion_of, settle
from qdq.insertion.replacing import attach
from qdq.insertion.switches import quantizers
from qdq.insertion.undo import atomic
from qdq.insertion.weights import load_tensors, read_tensors, write_tensors
from qdq.nn.calls import CallSite, QuantCall
from qdq.nn.twins import TWINS
from qdq.records.base import plain, to_json_text
from qdq.records.decisions import Decision
from qdq.sites import owner
from qdq.spec import QuantSpec
from qdq.targets import Target
from qdq.targets.opgraph import OpGraph

_KEY = "qdq"
_LARGEST_METADATA = 64 << 20  # characters; ResNet-50 takes 40 thousand


@dataclass(frozen=True)
class _Saved:
    """What a file says besides its tensors."""

    format: int
    target: Target
    graph: OpGraph | None
    left: tuple[Decision, ...]
    layers: tuple[str, ...]
    calls: tuple[CallSite, ...]
    disabled: tuple[str, ...]
    specs: Mapping[str, QuantSpec] = field(default_factory=dict)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write weights, ranges, target, decisions and switches, whole or not at all.

    Args:
        model: after `insert`.
        path: a safetensors file, by custom *.safetensors.

    Raises:
        StepError: nothing was inserted.
        InputError: the file cannot be written.
    """
    state = insertion_of(model)
    twins = tuple(TWINS.values())
    saved = _Saved(
        format=1,
        target=state.target,
        graph=state.graph,
        left=state.left,
        layers=tuple(name for name, each in model.named_modules() if isinstance(each, twins)),
        calls=tuple(each.site for each in model.modules() if isinstance(each, QuantCall)),
        disabled=tuple(site for site, q in quantizers(model).items() if not q.enabled),
        specs=state.specs,
    )
    write_tensors(path, model.state_dict(), {_KEY: to_json_text(plain(saved))})


def save_ranges(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the range of every calibrated site as `<site>.amin` and `<site>.amax`."""
    tensors: dict[str, Tensor] = {}
    for site, quantizer in quantizers(model).items():
        if quantizer.amin is not None and quantizer.amax is not None:
            tensors |= {f"{site}.amin": quantizer.amin, f"{site}.amax": quantizer.amax}
    write_tensors(path, tensors, {})


@atomic
def load(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Turn a fresh float model into the saved one, in place, all of it or nothing.

    Args:
        model: built as the saved one was before `insert`; on any device.
        path: what `save` wrote.

    Raises:
        InputError: no such file, none of ours, or one of another architecture.
    """
    tensors, metadata = read_tensors(path)
    saved = _read_metadata(metadata, path)
    _rebuild(model, saved, tensors, path)
    state = Insertion(saved.target, saved.graph, saved.left, saved.specs)
    settle(model, state)
    sites = quantizers(model)
    for site in saved.disabled:
        sites[site].enabled = False
    settle(model, state)
    load_tensors(model, tensors, at=str(path))


def _rebuild(
    model: nn.Module, saved: _Saved, tensors: dict[str, Tensor], path: str | os.PathLike[str]
) -> None:
    modules = dict(model.named_modules())
    folded = [row.name for row in saved.left if row.action == "fold"]
    for name in (*saved.layers, *folded, *(owner(site.name) for site in saved.calls)):
        if name not in modules:
            raise InputError(
                f"the file holds a layer {name!r} that this {type(model).__name__} has not",
                at=str(path),
                fix="build the model as it was built before it was saved",
            )
    for name, module in modules.items():
        bias = tensors.get(f"{name}.bias")
        if bias is not None and getattr(module, "bias", bias) is None:  # a BatchNorm made it
            module.bias = nn.Parameter(torch.empty_like(bias))
    for name in folded:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    layers = {name: modules[name] for name in saved.layers}
    for name, layer in layers.items():
        if type(layer) not in TWINS:
            raise InputError(
                f"{name!r} is a {type(layer).__name__}, which is not what was quantized",
                at=str(path),
                fix="load into a fresh float model, built as it was before it was saved",
            )
    attach(model, layers, saved.calls, saved.graph)


def _read_metadata(metadata: dict[str, str], path: str | os.PathLike[str]) -> _Saved:
    text = metadata.get(_KEY, "")
    try:
        if not 0 < len(text) <= _LARGEST_METADATA:
            raise ValueError("no description of the quantizers")
        return TypeAdapter(_Saved).validate_json(text)
    except (ValidationError, ValueError) as error:
        raise InputError(
            "this file was not written by qdq.save",
            at=str(path),
            fix="for float weights call model.load_state_dict(safetensors.torch.load_file(path))",
        ) from error
