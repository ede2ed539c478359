"""Quantized convolutions and transposed convolutions."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from qdq.nn.twins import register
from qdq.nn.weighted import QuantWeighted


class _QuantConv(QuantWeighted, _ConvNd):
    """A convolution on a fake-quantized input and weight, in one to three dimensions."""

    kind = "conv"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, ...) or (C_in, ...), as the float class; padding repeats quantized values."""
        x, weight, bias = self.quantized_operands(input)
        return self._output_quantizer(self._conv_forward(x, weight, bias))  # type: ignore[no-any-return]


@register(nn.Conv1d)
class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d` on a fake-quantized input and weight; arguments: `QuantWeighted`."""


@register(nn.Conv2d)
class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d` on a fake-quantized input and weight; arguments: `QuantWeighted`."""


@register(nn.Conv3d)
class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d` on a fake-quantized input and weight; arguments: `QuantWeighted`."""


class _QuantConvTranspose(QuantWeighted, _ConvTransposeNd):
    """A transposed convolution on a fake-quantized input and weight.

    Its weight is (C_in, C_out / groups, ...): output channels lie along axis 1, and with groups
    each scale serves the channel of its number in every group.
    """

    kind = "conv_transpose"
    channel_axis = 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C_in, ...) or (C_in, ...), as the float class.

        Args:
            input: one to three spatial dimensions.
            output_size: of the spatial dimensions of the result, or of all; None: the smallest.
        """
        operands = self.quantized_operands(input)
        return self._output_quantizer(conv_transpose(self, input, operands, output_size))  # type: ignore[no-any-return]


def conv_transpose(
    layer: _ConvTransposeNd,
    input: Tensor,
    operands: tuple[Tensor, Tensor, Tensor | None],
    output_size: list[int] | None,
) -> Tensor:
    """The layer's own convolution, of other operands than its own.

    Args:
        layer: one to three spatial dimensions.
        input: what it was called with.
        operands: input, weight and bias to compute with.
        output_size: of the spatial dimensions of the result, or of all; None: the smallest.
    """
    rank = len(layer.kernel_size)
    added = layer._output_padding(
        input,
        output_size,
        layer.stride,  # type: ignore[arg-type]  # torch asks for lists and passes tuples
        layer.padding,  # type: ignore[arg-type]
        layer.kernel_size,  # type: ignore[arg-type]
        rank,
        layer.dilation,  # type: ignore[arg-type]
    )
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    return convolve(*operands, layer.stride, layer.padding, added, layer.groups, layer.dilation)  # type: ignore[arg-type]


@register(nn.ConvTranspose1d)
class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` on a fake-quantized input and weight; arguments: `QuantWeighted`."""


@register(nn.ConvTranspose2d)
class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` on a fake-quantized input and weight; arguments: `QuantWeighted`."""


@register(nn.ConvTranspose3d)
class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` on a fake-quantized input and weight; arguments: `QuantWeighted`."""
