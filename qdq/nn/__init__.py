"""TensorQuantizer and the quantized modules: state only; the arithmetic lives in numerics/."""

from qdq.nn.add import (
    QuantAdd,
    QuantConcat,
    QuantJoin,
    QuantMatMul,
    QuantMul,
    QuantMultiAdd,
)
from qdq.nn.attention import QuantMultiheadAttention
from qdq.nn.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from qdq.nn.embedding import QuantEmbedding
from qdq.nn.instance_norm import (
    QuantInstanceNorm1d,
    QuantInstanceNorm2d,
    QuantInstanceNorm3d,
)
from qdq.nn.linear import QuantLinear
from qdq.nn.pooling import (
    QuantAdaptiveAvgPool1d,
    QuantAdaptiveAvgPool2d,
    QuantAdaptiveAvgPool3d,
    QuantAvgPool1d,
    QuantAvgPool2d,
    QuantAvgPool3d,
    QuantMaxPool1d,
    QuantMaxPool2d,
    QuantMaxPool3d,
)
from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.recurrent import QuantRecurrent
from qdq.nn.recurrent_cells import QuantGRUCell, QuantLSTMCell
from qdq.nn.recurrent_layers import QuantGRU, QuantLSTM
from qdq.nn.twins import register
from qdq.nn.unary import QuantUnary
from qdq.nn.weighted import QuantWeighted

__all__ = [
    "QuantAdaptiveAvgPool1d",
    "QuantAdaptiveAvgPool2d",
    "QuantAdaptiveAvgPool3d",
    "QuantAdd",
    "QuantAvgPool1d",
    "QuantAvgPool2d",
    "QuantAvgPool3d",
    "QuantConcat",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantGRU",
    "QuantGRUCell",
    "QuantInstanceNorm1d",
    "QuantInstanceNorm2d",
    "QuantInstanceNorm3d",
    "QuantJoin",
    "QuantLSTM",
    "QuantLSTMCell",
    "QuantLinear",
    "QuantMatMul",
    "QuantMaxPool1d",
    "QuantMaxPool2d",
    "QuantMaxPool3d",
    "QuantMul",
    "QuantMultiAdd",
    "QuantMultiheadAttention",
    "QuantRecurrent",
    "QuantUnary",
    "QuantWeighted",
    "TensorQuantizer",
    "register",
]
