"""torch.onnx, called one way: a model in, an ONNX model in memory out."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn

from qdq.data import call
from qdq.export.naming import Naming, name_tensors
from qdq.export.opsets import OLDEST_OPSET, TORCHSCRIPT, choose_exporter
from qdq.export.products import Products
from qdq.export.programs import write_program
from qdq.export.refusals import explain_refusal
from qdq.nn.attention import QuantMultiheadAttention
from qdq.nn.symbolic import MARKER_DOMAIN, emitting_markers


def to_onnx(
    model: nn.Module,
    example_inputs: object,
    *,
    opset: int = OLDEST_OPSET,
    exporter: str = "auto",
    dynamic_batch: bool = True,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> onnx.ModelProto:
    """The model as one of torch's exporters writes it.

    Args:
        model: in eval mode.
        example_inputs: a tensor, tuple or dict.
        opset: 13 to the newest known here.
        exporter: "torchscript", "dynamo", or "auto": the one that writes this opset.
        dynamic_batch: the first axis may vary, of every input and output that has the batch there:
            whose first axis is as long as the first input's.
        dynamic_shapes: by the names of inputs and outputs, further axes that may vary and what
            their sizes are called; equal names are equal sizes.
        input_names: one per input tensor; None: the keywords, or input, input_1, ...
        output_names: one per output tensor; None: output, output_1, ...

    Raises:
        ExportError: an opset or exporter that is not known here, an axis that is not there, or
            the exporter gives up on the model.
        InputError: the model does not take these inputs.
    """
    chosen = choose_exporter(opset, exporter)
    with torch.no_grad():
        results = call(model, example_inputs)
    naming = name_tensors(
        example_inputs,
        results,
        dynamic_batch=dynamic_batch,
        dynamic_shapes=dynamic_shapes,
        input_names=input_names,
        output_names=output_names,
    )
    write = write_script if chosen == TORCHSCRIPT else write_program
    with _taken_apart(model), Products():
        try:
            return write(model, example_inputs, opset=opset, naming=naming)
        except Exception as error:
            raise explain_refusal(error, model, opset=opset) from error


def write_script(
    model: nn.Module, example_inputs: object, *, opset: int, naming: Naming
) -> onnx.ModelProto:
    """The model as torch's TorchScript exporter writes it; see `write_program`."""
    args: tuple[Any, ...] = (example_inputs,)
    names: list[str] = []
    if isinstance(example_inputs, Mapping):
        args, names = tuple(example_inputs.values()), list(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    with (
        warnings.catch_warnings(),
        _quiet(),
        tempfile.TemporaryDirectory() as folder,  # weights beyond 2 GB become files of their own
    ):
        # Torch deprecates this exporter, the only one that writes a true opset 13.
        warnings.simplefilter("ignore", DeprecationWarning)
        # It says of every size a forward asks for that it becomes a constant.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # It says of some Slices that it leaves them in the graph, which is where they belong.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1")
        torch.onnx.export(
            _Called(model, names),
            args,
            file := os.path.join(folder, "traced.onnx"),
            input_names=naming.inputs,
            output_names=naming.outputs,
            opset_version=opset,
            dynamic_axes=naming.axes,
            custom_opsets={MARKER_DOMAIN: 1} if emitting_markers() else None,
            dynamo=False,
            autograd_inlining=False,
        )
        return onnx.load(file)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's log goes back to what it was: torch switches it on and never off."""
    before = torch._C._jit_is_onnx_log_enabled()
    try:
        yield
    finally:
        torch._C._jit_set_onnx_log_enabled(before)


@contextmanager
def _taken_apart(model: nn.Module) -> Iterator[None]:
    """Multi-head attentions are calls of their own, which hide nothing from the mode above."""
    opaque = [each for each in model.modules() if type(each) is nn.MultiheadAttention]
    try:
        for each in opaque:
            each.__class__ = QuantMultiheadAttention
        yield
    finally:
        for each in opaque:
            each.__class__ = nn.MultiheadAttention


class _Called(nn.Module):
    """The model, called with these inputs and no others: its tensors are ours, by their names.

    Else the exporter fills in the defaults of the forward's other parameters, by position, also
    those that a decorator of the forward gives by name.
    """

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        for table in ("_modules", "_parameters", "_buffers"):
            vars(self)[table] = vars(model)[table]
        self.call, self.names, self.training = model.__call__, names, model.training

    def forward(self, *values: Any) -> Any:
        # The log that torch has just switched on would print the whole graph with an error.
        torch._C._jit_set_onnx_log_enabled(False)
        if self.names:
            return self.call(**dict(zip(self.names, values, strict=True)))
        return self.call(*values)
