"""A quantizer in an ONNX graph, for both of torch's exporters."""

import torch
from torch import Tensor

from qdq.compat.pytorch_quantization.arithmetic import E4M3_LARGEST
from qdq.compat.pytorch_quantization.symbolic import FP8_PREFIX, UnexportableError
from qdq.compat.pytorch_quantization.tensor_quant import scaled_e4m3
from qdq.nn.symbolic import emitting_markers, exported_fake_quantize
from qdq.numerics.affine import QParams
from qdq.spec import QuantSpec


def fake_quantize_nodes(x: Tensor, grid: QParams, site: str) -> Tensor:
    """QuantizeLinear and DequantizeLinear; fp16 and bf16 are cast to fp32 and back.

    Args:
        x: any shape.
        grid: of 8 bits.
        site: the quantizer's name.

    Raises:
        UnexportableError: a width or range that QuantizeLinear cannot express.
    """
    if not emitting_markers():  # those are lowered by a pass with checks of its own
        _refuse_misfits(grid.spec, site)
    return _cast(exported_fake_quantize(_cast(x, torch.float32), grid, site), x.dtype)


def _refuse_misfits(spec: QuantSpec, site: str) -> None:
    if spec.bits != 8:
        raise UnexportableError(
            f"QuantizeLinear has 8 bits, this quantizer {spec.bits}",
            at=site,
            fix="pass num_bits=8 where the model shall be exported",
        )
    if spec.narrow:
        raise UnexportableError(
            "QuantizeLinear reaches -128, a narrow range does not",
            at=site,
            fix="pass narrow_range=False where the model shall be exported",
        )


def e4m3_nodes(x: Tensor, amax: Tensor, site: str) -> Tensor:
    """TensorRT's own operators for eight-bit floats, with scale = amax / 448.

    Args:
        x: any shape.
        amax: one number.
        site: the quantizer's name.

    Raises:
        UnexportableError: more than one range.
    """
    if not torch.compiler.is_exporting():
        return scaled_e4m3(x, amax)  # type: ignore[no-any-return, no-untyped-call]
    if amax.numel() != 1:
        raise UnexportableError(
            "eight-bit floats can be exported with one scale only",
            at=site,
            fix="pass axis=None where the model shall be exported",
        )
    scale = amax.reshape(()) / E4M3_LARGEST
    scale = torch.where(scale > 0, scale, 1.0)
    wide = _cast(x, torch.float32)
    codes = _node(f"{FP8_PREFIX}QuantizeLinear", (wide, scale), {}, torch.uint8)
    values = _node(f"{FP8_PREFIX}DequantizeLinear", (codes, scale), {}, torch.float32)
    return _cast(values, x.dtype)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Without a node where nothing changes."""
    return x if x.dtype == dtype else x.to(dtype)


def _node(
    op: str, inputs: tuple[Tensor, ...], attributes: dict[str, int], dtype: torch.dtype
) -> Tensor:
    """One node of the graph that torch.export hands to the ONNX exporter; it computes nothing."""
    shape = inputs[0].shape
    return torch.onnx.ops.symbolic(op, inputs, attributes, dtype=dtype, shape=shape)  # type: ignore[arg-type]
