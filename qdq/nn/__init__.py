"""TensorQuantizer and the quantized modules: state only; the arithmetic lives in numerics/."""

from qdq.nn.add import QuantAdd, QuantMultiAdd
from qdq.nn.conv import QuantConv2d
from qdq.nn.linear import QuantLinear
from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.twins import register
from qdq.nn.weighted import QuantWeighted

__all__ = [
    "QuantAdd",
    "QuantConv2d",
    "QuantLinear",
    "QuantMultiAdd",
    "QuantWeighted",
    "TensorQuantizer",
    "register",
]
