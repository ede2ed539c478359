"""torch.onnx, called one way: a model in, an ONNX model in memory out."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qdq.data import call, tensors_of
from qdq.errors import ExportError
from qdq.nn.attention import QuantMultiheadAttention, attend
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
        dynamic_batch: the first axis of every input and output may vary.
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
        results = tensors_of(call(model, example_inputs))
    count = len(tensors_of(example_inputs))
    keywords = None
    if isinstance(example_inputs, Mapping):
        keywords = [
            name
            for key, value in example_inputs.items()
            for name in _numbered(key, len(tensors_of(value)))
        ]
    ins = input_names or keywords or _numbered("input", count)
    outs = output_names or _numbered("output", len(results))
    for names, wanted, what in ((ins, count, "input"), (outs, len(results), "output")):
        if len(names) != wanted or len(set(names)) != wanted:
            raise ExportError(
                f"{what}_names={names} does not name {wanted} {what}s",
                fix=f"pass {wanted} different names",
            )
    axes = {name: {0: "batch"} for name in (*ins, *outs)} if dynamic_batch else None
    buffer = io.BytesIO()
    _export(model, example_inputs, buffer, opset, ins, outs, axes)
    return onnx.load_from_string(buffer.getvalue())


def _export(
    model: nn.Module,
    example_inputs: object,
    buffer: io.BytesIO,
    opset: int,
    ins: list[str],
    outs: list[str],
    axes: dict[str, dict[int, str]] | None,
) -> None:
    args: tuple[Any, ...] = (example_inputs,)
    names: list[str] = []
    if isinstance(example_inputs, Mapping):
        args, names = tuple(example_inputs.values()), list(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args = tuple(example_inputs)
    with warnings.catch_warnings(), _taken_apart(model), _Products():
        # Torch deprecates this exporter, the only one that writes a true opset 13.
        warnings.simplefilter("ignore", DeprecationWarning)
        # What a trace does not follow is said once, not at every place.
        warnings.simplefilter("once", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # It says of some Slices that it leaves them in the graph, which is where they belong.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1")
        try:
            torch.onnx.export(
                _Called(model, names),
                args,
                buffer,  # type: ignore[arg-type]  # its stub forgot the in-memory file it takes
                input_names=ins,
                output_names=outs,
                opset_version=opset,
                dynamic_axes=axes,
                custom_opsets={MARKER_DOMAIN: 1} if emitting_markers() else None,
                dynamo=False,
                autograd_inlining=False,
            )
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[0]
            raise ExportError(
                f"torch.onnx could not export this model: {type(error).__name__}: {said}",
                at=type(model).__name__,
                fix="export the float model with torch.onnx.export(..., dynamo=False) to see what "
                "it objects to",
            ) from error


class _Products(TorchFunctionMode):
    """Writes attention as matrix products: below opset 14 the exporter does not know it."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        apart = attend if func is F.scaled_dot_product_attention else func
        return apart(*args, **(kwargs or {}))


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
        if self.names:
            return self.call(**dict(zip(self.names, values, strict=True)))
        return self.call(*values)


def _numbered(stem: str, count: int) -> list[str]:
    return [stem if index == 0 else f"{stem}_{index}" for index in range(count)]
