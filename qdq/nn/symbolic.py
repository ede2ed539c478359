"""What a quantizer looks like to torch's two exporters.

Plain `torch.onnx.export` gets real QuantizeLinear and DequantizeLinear. Inside `emit_markers()`,
which `qdq.export_onnx` opens, each call of a quantizer becomes one `qdq::Site` node that carries
nothing but the name of its site; a graph pass lowers those for the target, so that types, axes
and names are ours.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qdq.errors import ExportError
from qdq.numerics.affine import QParams, fake_quantize, fake_quantize_bias
from qdq.spec import QuantSpec

MARKER_DOMAIN = "qdq"
MARKER = "Site"

Frozen: TypeAlias = float | list[float]


@dataclass(frozen=True, eq=False)
class MarkedCall:
    """One call of a quantizer that left a marker.

    Attributes:
        site: its name.
        x: the float tensor; any shape.
        scale: () or (C,).
        grid: what x is quantized to; None for an int32 bias.
    """

    site: str
    x: Tensor
    scale: Tensor
    grid: QParams | None


_calls: ContextVar[list[MarkedCall] | None] = ContextVar("qdq_marker_calls", default=None)


@contextmanager
def emit_markers() -> Iterator[list[MarkedCall]]:
    """Quantizers export as markers inside the block; gives the list their calls are noted in."""
    calls: list[MarkedCall] = []
    before = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(before)


def emitting_markers() -> bool:
    """Whether we are inside `emit_markers`."""
    return _calls.get() is not None


def exported_fake_quantize(x: Tensor, grid: QParams, site: str) -> Tensor:
    """`fake_quantize` as a node the exporter knows.

    Args:
        x: any shape.
        grid: the grid of the site.
        site: its name.
    """
    number = _note(MarkedCall(site, x, grid.scale, grid))
    if torch.compiler.is_exporting():
        if emitting_markers():
            return _marked_by_dynamo(x, site, number)
        return _exported_by_dynamo(x, grid, site)
    frozen = (_constant(grid.scale), _constant(grid.zero_point), grid.spec)
    return _Exported.apply(x, frozen, site)  # type: ignore[no-any-return, no-untyped-call]


def exported_fake_quantize_bias(bias: Tensor, scale: Tensor, site: str) -> Tensor:
    """`fake_quantize_bias` as a node the exporter knows; outside `emit_markers` a float bias.

    Args:
        bias: (C,).
        scale: () or (C,).
        site: its name.
    """
    number = _note(MarkedCall(site, bias, scale, None))
    if torch.compiler.is_exporting():
        return _marked_by_dynamo(bias, site, number) if emitting_markers() else bias
    return _ExportedBias.apply(bias, _constant(scale), site)  # type: ignore[no-any-return, no-untyped-call]


def _marked_by_dynamo(x: Tensor, site: str, number: int) -> Tensor:
    """A marker; its number keeps torch's optimizer from taking two calls for one."""
    return torch.onnx.ops.symbolic(
        f"{MARKER_DOMAIN}::{MARKER}",
        (x,),
        {"site": site, "call": number},
        dtype=x.dtype,
        shape=x.shape,
        version=1,
    )


def _exported_by_dynamo(x: Tensor, grid: QParams, site: str) -> Tensor:
    """The nodes that torch.export's way to ONNX takes over as they are."""
    spec = grid.spec
    _require_8_bits(spec, site)
    axis: dict[str, Any] = {} if spec.keep_axis is None else {"axis": spec.keep_axis}
    code_type = torch.int8 if spec.signed else torch.uint8
    constants = (grid.scale, grid.zero_point.to(code_type))
    node = torch.onnx.ops.symbolic
    codes = node("QuantizeLinear", (x, *constants), axis, dtype=code_type, shape=x.shape)
    return node("DequantizeLinear", (codes, *constants), axis, dtype=x.dtype, shape=x.shape)


def _require_8_bits(spec: QuantSpec, site: str) -> None:
    if spec.bits != 8:
        raise ExportError(
            f"{spec} has no QuantizeLinear before opset 21, which knows 8 bits",
            at=site,
            fix="pass bits=8 where the model shall be exported",
        )


def _note(call: MarkedCall) -> int:
    """Note the call where somebody asked for it; how many were noted before."""
    calls = _calls.get()
    if calls is None:
        return 0
    calls.append(call)
    return len(calls) - 1


def _constant(tensor: Tensor) -> Frozen:
    """The numbers themselves: a tensor would be traced back to the amax it was computed from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return tensor.tolist()


def _tensor(frozen: Frozen, device: torch.device) -> Tensor:
    """The numbers as a tensor that the tracer takes for what it is, a constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return torch.tensor(frozen, device=device)


def _marker(g: Any, x: Any, site: str) -> Any:
    marker = g.op(f"{MARKER_DOMAIN}::{MARKER}", x, site_s=site)
    marker.setType(x.type())  # else the exporter loses every shape behind it
    return marker


class _Exported(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        frozen: tuple[Frozen, Frozen, QuantSpec],
        site: str,
    ) -> Tensor:
        """`frozen`: scale, zero point and spec."""
        scale, point = (_tensor(each, x.device) for each in frozen[:2])
        return fake_quantize(x.detach(), QParams(scale, point, scale, scale, frozen[2]))

    @staticmethod
    def symbolic(g: Any, x: Any, frozen: tuple[Frozen, Frozen, QuantSpec], site: str) -> Any:
        """The nodes that stand for this call in the ONNX graph."""
        if emitting_markers():
            return _marker(g, x, site)
        scale_of, point_of, spec = frozen
        _require_8_bits(spec, site)
        axis = {} if spec.keep_axis is None else {"axis_i": spec.keep_axis}
        code_type = torch.int8 if spec.signed else torch.uint8
        scale = g.op("Constant", value_t=torch.tensor(scale_of))
        point = g.op("Constant", value_t=torch.tensor(point_of).to(code_type))
        codes = g.op("QuantizeLinear", x, scale, point, **axis)
        values = g.op("DequantizeLinear", codes, scale, point, **axis)
        values.setType(x.type())
        return values


class _ExportedBias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, bias: Tensor, scale: Frozen, site: str
    ) -> Tensor:
        """`scale` broadcasts against `bias`."""
        return fake_quantize_bias(bias.detach(), _tensor(scale, bias.device))

    @staticmethod
    def symbolic(g: Any, bias: Any, scale: Frozen, site: str) -> Any:
        """A marker; or the float bias, since no ONNX operator quantizes to int32."""
        return _marker(g, bias, site) if emitting_markers() else bias
