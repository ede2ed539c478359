"""What the functions of `tensor_quant` look like to the TorchScript exporter.

A range reaches these functions as a value of the graph. From a constant or a buffer, the exporter's
constant folding makes a constant scale; from a range computed from x, the scale is computed, too.
"""

from typing import Any

import torch
from torch.onnx import TensorProtoDataType

from qdq.compat.pytorch_quantization.arithmetic import E4M3_LARGEST
from qdq.errors import ExportError

# QuantizeLinear takes fp32 before opset 19: these are cast to it and back.
CAST_TYPES = {
    "Half": TensorProtoDataType.FLOAT16,
    "BFloat16": TensorProtoDataType.BFLOAT16,
    "Double": TensorProtoDataType.DOUBLE,
}
FP8_PREFIX = "trt::TRT_FP8"


class UnexportableError(ExportError, AssertionError):
    """What ONNX cannot hold; an AssertionError too, which old callers expect."""


def quantize_dequantize(
    g: Any, inputs: Any, amax: Any, num_bits: int, unsigned: bool, narrow_range: bool
) -> Any:
    """QuantizeLinear and DequantizeLinear with scale = amax / 127 (255 unsigned; 1 where it is 0).

    Args:
        g: graph under construction.
        inputs: value to quantize, of any floating-point type.
        amax: value of the range: one number, or all but one of its axes of one entry.
        num_bits: 8.
        unsigned: uint8 codes.
        narrow_range: False; QuantizeLinear knows no narrow signed range.

    Raises:
        UnexportableError: a width, range or shape that QuantizeLinear cannot express.
    """
    if num_bits != 8:
        raise UnexportableError(
            f"QuantizeLinear has 8 bits, this call {num_bits}",
            fix="pass num_bits=8 where the model shall be exported",
        )
    if narrow_range and not unsigned:
        raise UnexportableError(
            "QuantizeLinear reaches -128, a narrow range does not",
            fix="pass narrow_range=False where the model shall be exported",
        )
    axis, count = _kept_axis(inputs, amax)
    scale = _step(g, amax, count, 255.0 if unsigned else 127.0)
    point = _constant(g, torch.zeros(count, dtype=torch.uint8 if unsigned else torch.int8))
    codes = g.op("QuantizeLinear", _fp32(g, inputs), scale, point, **axis)
    return _like(g, inputs, g.op("DequantizeLinear", codes, scale, point, **axis))


def quantize_dequantize_e4m3(g: Any, inputs: Any, amax: Any) -> Any:
    """TensorRT's operators for eight-bit floats, with scale = amax / 448 (1 without an amax).

    Args:
        g: graph under construction.
        inputs: value to round, of any floating-point type.
        amax: value of the range, one number, or None.

    Raises:
        UnexportableError: a range of more than one number.
    """
    if amax is None or amax.node().mustBeNone():
        scale = _constant(g, torch.tensor(1.0))
    else:
        axis, count = _kept_axis(inputs, amax)
        if axis:
            raise UnexportableError(
                "eight-bit floats can be exported with one scale only",
                fix="pass one amax for the whole tensor",
            )
        scale = _step(g, amax, count, E4M3_LARGEST)
    codes = g.op(f"{FP8_PREFIX}QuantizeLinear", _fp32(g, inputs), scale)
    return _like(g, inputs, g.op(f"{FP8_PREFIX}DequantizeLinear", codes, scale))


def _kept_axis(inputs: Any, amax: Any) -> tuple[dict[str, int], list[int]]:
    """(attribute with the axis of `inputs` that has a range per entry, if one has; scales' shape).

    It is counted from the end, for amax may have fewer axes.
    """
    sizes = amax.type().sizes()
    if sizes is None:
        raise UnexportableError(
            "the shape of this amax is not known",
            fix="pass an amax whose shape does not depend on data",
        )
    axes = [axis for axis, size in enumerate(sizes) if size != 1]
    if len(axes) > 1:
        raise UnexportableError(
            f"QuantizeLinear has one axis, an amax of shape {tuple(sizes)} several",
            fix="pass an amax that keeps one axis",
        )
    if not axes:
        return {}, []
    return {"axis_i": axes[0] - len(sizes) + inputs.type().dim()}, [sizes[axes[0]]]


def _step(g: Any, amax: Any, count: list[int], bound: float) -> Any:
    """One step in fp32, amax / bound; 1 where that is 0."""
    flat = g.op("Reshape", _fp32(g, amax), _constant(g, torch.tensor(count, dtype=torch.int64)))
    step = g.op("Div", flat, _constant(g, torch.tensor(bound)))
    is_zero = g.op("Equal", step, _constant(g, torch.tensor(0.0)))
    return g.op("Add", step, g.op("Cast", is_zero, to_i=TensorProtoDataType.FLOAT))


def _constant(g: Any, value: torch.Tensor) -> Any:
    return g.op("Constant", value_t=value)


def _fp32(g: Any, value: Any) -> Any:
    if value.type().scalarType() not in CAST_TYPES:
        return value
    return g.op("Cast", value, to_i=TensorProtoDataType.FLOAT)


def _like(g: Any, inputs: Any, values: Any) -> Any:
    """`values` in the type of `inputs`."""
    other = CAST_TYPES.get(inputs.type().scalarType())
    return values if other is None else g.op("Cast", values, to_i=other)
