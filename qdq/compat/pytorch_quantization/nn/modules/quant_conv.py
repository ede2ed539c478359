"""Quantized convolutions and transposed convolutions."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from qdq.compat.pytorch_quantization.nn.modules._layers import QuantLayer
from qdq.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL,
    QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL,
    QuantDescriptor,
)
from qdq.nn.conv import conv_transpose

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "_ConvNd",
    "_QuantConvNd",
    "_QuantConvTransposeNd",
]


class _QuantConvNd(QuantLayer, _ConvNd):
    """A convolution on a quantized input and weight, in one to three dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, ...) or (C_in, ...), as the float class; padding repeats quantized values."""
        return self._conv_forward(*self.quantized_operands(input), self.bias)


class QuantConv1d(_QuantConvNd, nn.Conv1d):
    """`nn.Conv1d` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL


class QuantConv2d(_QuantConvNd, nn.Conv2d):
    """`nn.Conv2d` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL


class QuantConv3d(_QuantConvNd, nn.Conv3d):
    """`nn.Conv3d` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL


class _QuantConvTransposeNd(QuantLayer, _ConvTransposeNd):
    """A transposed convolution on a quantized input and weight; padding mode zeros only."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C_in, ...) or (C_in, ...), as the float class.

        Args:
            input: one to three spatial dimensions.
            output_size: of the spatial dimensions of the result, or of all; None: the smallest.
        """
        operands = (*self.quantized_operands(input), self.bias)
        return conv_transpose(self, input, operands, output_size)


class QuantConvTranspose1d(_QuantConvTransposeNd, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = (
        QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL
    )


class QuantConvTranspose2d(_QuantConvTransposeNd, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = (
        QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL
    )


class QuantConvTranspose3d(_QuantConvTransposeNd, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` on a quantized input and weight; arguments: `QuantLayer`."""

    default_quant_desc_weight: ClassVar[QuantDescriptor] = (
        QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL
    )


Conv1d = QuantConv1d
Conv2d = QuantConv2d
Conv3d = QuantConv3d
ConvTranspose1d = QuantConvTranspose1d
ConvTranspose2d = QuantConvTranspose2d
ConvTranspose3d = QuantConvTranspose3d
