"""Tensors from the inside of models: of a torch model by site, of an ONNX file by name."""

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from qdq.data import Inputs, call, device_of, to_device
from qdq.errors import InputError, QdqError
from qdq.graph.edges import Array
from qdq.graph.linting.reading import read_model
from qdq.graph.simulation.sessions import Observed
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers
from qdq.nn import TensorQuantizer, callsites
from qdq.validation.points import Point, points_of
from qdq.validation.running import feed

Probe: TypeAlias = Callable[[Inputs], Mapping[str, Array]]


def onnx_probe(path: str | os.PathLike[str], points: Sequence[Point]) -> Probe:
    """Tensors of an ONNX file, run node by node without optimizations.

    Args:
        path: the file.
        points: of another file. What this one quantizes under the same name is that; else the
            tensor that Q reads there is, if there is one of its name here.

    Returns:
        Inputs -> name of the point -> array.

    Raises:
        GraphError: the file cannot be read, or onnxruntime refuses it.
    """
    model = read_model(path)
    own = {each.name: each.tensor for each in points_of(model)}
    made = {name for node in model.graph.node for name in node.output}
    held = {each.name for each in model.graph.initializer}
    known = made | {each.name for each in model.graph.input} - held
    places = {each.name: own.get(each.name, each.source) for each in points}
    places = {name: tensor for name, tensor in places.items() if tensor in known}
    observed = Observed(model, path, made.intersection(places.values()))

    def run(inputs: Inputs) -> Mapping[str, Array]:
        feeds = feed(observed.session, inputs)
        found = feeds | observed.run(feeds)
        return {name: found[tensor] for name, tensor in places.items()}

    return run


def torch_probe(model: nn.Module, points: Sequence[Point]) -> Probe:
    """What passes the sites of a torch model.

    Args:
        model: with quantizers, as they are switched; or a float model, of which a copy gets
            quantizers that only look on.
        points: of a file that names its sites.

    Returns:
        Inputs -> name of the site -> array. It raises InputError where no quantizers can be put
        into a copy of a float model.
    """
    names = {each.name for each in points}
    if any(isinstance(each, TensorQuantizer) for each in model.modules()):
        return lambda inputs: _quantized(model, inputs, names)
    copies: list[nn.Module] = []

    def run(inputs: Inputs) -> Mapping[str, Array]:
        if not copies:
            copies.append(_copy_with_sites(model, inputs))
        return _float(copies[0], inputs, names)

    return run


def _quantized(model: nn.Module, inputs: Inputs, names: Collection[str]) -> dict[str, Array]:
    """Of every site what its quantizer gives."""
    found: dict[str, Array] = {}

    def look(quantizer: nn.Module, _: object, result: Tensor) -> None:
        assert isinstance(quantizer, TensorQuantizer)
        found.setdefault(quantizer.site, _array(result))

    sites = {site: each for site, each in quantizers(model).items() if site in names}
    hooks = [each.register_forward_hook(look) for each in sites.values()]
    try:
        _call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _copy_with_sites(model: nn.Module, inputs: Inputs) -> nn.Module:
    other = copy.deepcopy(model).eval()
    try:
        insert(other, to_device(inputs, device_of(other)), target="onnxruntime")
    except QdqError as error:
        raise InputError(
            f"the layers of this float model cannot be followed: {error.what}",
            at=error.at or type(model).__name__,
            fix="compare with the quantized model it became, or with a float ONNX file",
        ) from error
    return other


def _float(model: nn.Module, inputs: Inputs, names: Collection[str]) -> dict[str, Array]:
    """Of every site what would be quantized there."""
    found: dict[str, Array] = {}

    def look(site: str, x: Tensor) -> None:
        if site in names:
            found.setdefault(site, _array(x))

    for each in quantizers(model).values():
        each.observer = look
    _call(model, inputs)
    return found


def _call(model: nn.Module, inputs: Inputs) -> None:
    try:
        with torch.no_grad():
            call(model, to_device(inputs, device_of(model)))
    except BaseException:
        callsites.reset()
        raise


def _array(x: Tensor) -> Array:
    return x.detach().float().cpu().numpy()
