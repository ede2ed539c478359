"""torch.export's way to ONNX: a model in, an ONNX model in memory out."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import onnx
import torch
from onnxscript import ir
from torch import Tensor, nn
from torch.onnx._internal.exporter import _flags

from qdq.data import call, tensors_of
from qdq.export.naming import Naming
from qdq.nn.symbolic import emit_markers, emitting_markers

_P = ParamSpec("_P")
_R = TypeVar("_R")


def write_program(
    model: nn.Module, example_inputs: object, *, opset: int, naming: Naming
) -> onnx.ModelProto:
    """The model as torch.export and torch's converter write it.

    Args:
        model: in eval mode.
        example_inputs: a tensor, tuple or dict.
        opset: 18 or newer.
        naming: of its inputs, outputs and varying axes.

    Raises:
        Exception: whatever torch raises of a model it cannot write.
    """
    inputs = _inputs_that_vary(example_inputs, naming)
    if emitting_markers():
        with torch.no_grad():  # the calls that are noted hold values; those that torch traces none
            _told_of_export(call)(model, inputs)
    with _quiet(), torch.no_grad(), emit_markers() if emitting_markers() else nullcontext():
        program = _told_of_export(torch.export.export)(
            _Positional(model, inputs),
            tuple(tensors_of(inputs)),
            dynamic_shapes={"tensors": _shapes(naming)},
            strict=False,  # strict export would follow no call site
        )
        _drop_idle_nodes(program.graph)
        written = torch.onnx.export(
            program,
            input_names=naming.inputs,
            output_names=naming.outputs,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert written is not None
    return _cleaned(written.model, naming)


def _drop_idle_nodes(graph: torch.fx.Graph) -> None:
    """Drop what no output needs: how weights get their ranges, of which some has no ONNX."""
    check = torch.ops.aten._assert_tensor_metadata.default
    for node in graph.find_nodes(op="call_function", target=check):
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _told_of_export(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function`, during which torch.onnx.is_in_onnx_export() holds."""
    told: Callable[_P, _R] = _flags.set_onnx_exporting_flag(function)
    return told


class _Positional(nn.Module):
    """The model, called with its tensors in a row."""

    def __init__(self, model: nn.Module, like: object) -> None:
        super().__init__()
        for table in ("_modules", "_parameters", "_buffers"):
            vars(self)[table] = vars(model)[table]
        self.call, self.like, self.training = model.__call__, like, model.training

    def forward(self, *tensors: Tensor) -> Any:
        inputs = _filled(self.like, iter(tensors))
        if isinstance(inputs, dict):
            return self.call(**inputs)
        return self.call(*inputs) if isinstance(inputs, tuple) else self.call(inputs)


def _filled(nest: Any, tensors: Iterator[Tensor]) -> Any:
    """The nest with these tensors in the places of its own."""
    if isinstance(nest, Tensor):
        return next(tensors)
    if isinstance(nest, Mapping):
        return {key: _filled(value, tensors) for key, value in nest.items()}
    if isinstance(nest, (tuple, list)):
        return tuple(_filled(value, tensors) for value in nest)
    return nest


def _inputs_that_vary(example_inputs: object, naming: Naming) -> Any:
    """The inputs, with two entries along every varying axis that has one: torch would fix it."""
    grown = []
    for name, tensor in zip(naming.inputs, tensors_of(example_inputs), strict=True):
        for axis in naming.axes.get(name, {}):
            if tensor.shape[axis] == 1:
                tensor = torch.cat([tensor, tensor], axis)
        grown.append(tensor)
    return _filled(example_inputs, iter(grown))


def _shapes(naming: Naming) -> tuple[dict[int, Any], ...]:
    """For each input tensor: its varying axes; equal names are one size."""
    sizes: dict[str, Any] = {}
    return tuple(
        {
            axis: sizes.setdefault(size, torch.export.Dim(size))
            for axis, size in naming.axes.get(name, {}).items()
        }
        for name in naming.inputs
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of itself while it exports."""
    # That torchvision is not installed, and which of two version converters it takes.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _cleaned(model: ir.Model, naming: Naming) -> onnx.ModelProto:
    """Without where it was traced, and with the names of the varying axes."""
    proto = ir.to_proto(model)
    graph = proto.graph
    symbols = {
        _axes_of(value)[axis].dim_param: size
        for value in graph.input
        for axis, size in naming.axes.get(value.name, {}).items()
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in _axes_of(value):
            if axis.dim_param:
                axis.dim_param = re.sub(
                    r"\w+", lambda found: symbols.get(found[0], found[0]), axis.dim_param
                )
    for each in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.ClearField("metadata_props")  # file names of this machine
    graph.ClearField("metadata_props")
    return proto


def _axes_of(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim
