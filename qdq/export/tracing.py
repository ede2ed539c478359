"""torch.onnx, called one way: a model in, an ONNX model in memory out."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn

from qdq.data import call
from qdq.errors import ExportError
from qdq.export.naming import Naming, name_tensors
from qdq.export.products import Products
from qdq.export.refusals import explain_refusal
from qdq.nn.attention import QuantMultiheadAttention
from qdq.nn.symbolic import MARKER_DOMAIN, emitting_markers

OLDEST_OPSET = 13  # the first with per-channel Q/DQ (T05)
NEWEST_OPSET = 17  # the last that torch's TorchScript exporter writes fully


def to_onnx(
    model: nn.Module,
    example_inputs: object,
    *,
    opset: int = OLDEST_OPSET,
    dynamic_batch: bool = True,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> onnx.ModelProto:
    """The model as torch's TorchScript exporter writes it.

    Args:
        model: in eval mode.
        example_inputs: a tensor, tuple or dict.
        opset: 13..17.
        dynamic_batch: the first axis may vary, of every input and output that has the batch there:
            whose first axis is as long as the first input's.
        input_names: one per input tensor; None: the keywords, or input, input_1, ...
        output_names: one per output tensor; None: output, output_1, ...

    Raises:
        ExportError: an opset outside 13..17, or the exporter gives up on the model.
        InputError: the model does not take these inputs.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ExportError(
            f"opset={opset} is outside {OLDEST_OPSET}..{NEWEST_OPSET}",
            fix="pass opset=13: per-channel Q/DQ begins there, and newer ones add nothing for INT8",
        )
    with torch.no_grad():
        results = call(model, example_inputs)
    naming = name_tensors(
        example_inputs,
        results,
        dynamic_batch=dynamic_batch,
        input_names=input_names,
        output_names=output_names,
    )
    buffer = io.BytesIO()
    _export(model, example_inputs, buffer, opset, naming)
    return onnx.load_from_string(buffer.getvalue())


def _export(
    model: nn.Module,
    example_inputs: object,
    buffer: io.BytesIO,
    opset: int,
    naming: Naming,
) -> None:
    args: tuple[Any, ...] = (example_inputs,)
    names: list[str] = []
    if isinstance(example_inputs, Mapping):
        args, names = tuple(example_inputs.values()), list(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    with warnings.catch_warnings(), _taken_apart(model), _quiet(), Products():
        # Torch deprecates this exporter, the only one that writes a true opset 13.
        warnings.simplefilter("ignore", DeprecationWarning)
        # It says of every size a forward asks for that it becomes a constant.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # It says of some Slices that it leaves them in the graph, which is where they belong.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1")
        try:
            torch.onnx.export(
                _Called(model, names),
                args,
                buffer,  # type: ignore[arg-type]  # its stub forgot the in-memory file it takes
                input_names=naming.inputs,
                output_names=naming.outputs,
                opset_version=opset,
                dynamic_axes=naming.axes,
                custom_opsets={MARKER_DOMAIN: 1} if emitting_markers() else None,
                dynamo=False,
                autograd_inlining=False,
            )
        except Exception as error:
            raise explain_refusal(error, model, newest=NEWEST_OPSET) from error


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
