"""Into codes and out of them: QuantizeLinear, DequantizeLinear."""

import numpy as np

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, Array
from qdq.graph.simulation.arithmetic import dequantize, quantize
from qdq.graph.simulation.kernels import KERNELS, MICROSOFT, Attributes, Inputs, first, optional

_CODES = (np.int8, np.uint8, np.int16, np.uint16, np.int32)


@KERNELS.add(("", QUANTIZE))
@KERNELS.add((MICROSOFT, QUANTIZE))
def quantize_linear(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX QuantizeLinear of float32, per tensor or along an axis."""
    x, scale = first(inputs, 2)
    given = optional(inputs, 2)
    if given is None and attributes.get("output_dtype", 0):
        return None
    zero_point = np.zeros_like(scale, np.uint8) if given is None else given
    if not _is_known(attributes, zero_point, x, scale):
        return None
    return quantize(x, *_along(attributes, x.ndim, scale, zero_point))


@KERNELS.add(("", DEQUANTIZE))
@KERNELS.add((MICROSOFT, DEQUANTIZE))
def dequantize_linear(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX DequantizeLinear into float32, per tensor or along an axis."""
    codes, scale = first(inputs, 2)
    given = optional(inputs, 2)
    zero_point = np.zeros_like(scale, codes.dtype) if given is None else given
    if zero_point.dtype != codes.dtype or not _is_known(attributes, codes, scale):
        return None
    return dequantize(codes, *_along(attributes, codes.ndim, scale, zero_point))


def _is_known(attributes: Attributes, codes: Array, *floats: Array) -> bool:
    plain = all(each.dtype == np.float32 for each in floats)
    return plain and codes.dtype in _CODES and not attributes.get("block_size", 0)


def _along(
    attributes: Attributes, rank: int, scale: Array, zero_point: Array
) -> tuple[Array, Array]:
    """Scales and zero points, shaped to broadcast against a tensor."""
    shape = [1] * rank
    if scale.size > 1:
        shape[attributes.get("axis", 1)] = -1
    return scale.reshape(shape), zero_point.reshape(shape)
