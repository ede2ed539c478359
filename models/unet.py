"""U-Net in plain torch, with transposed convolutions on the way up."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """U-Net: down by max pooling, up by transposed convolution, the maps of each level joined.

    Unlike the paper's, convolutions are padded, so that the output has the size of the input, and
    have BatchNorm.

    Shapes:
        input:  (N, channels, H, W) float; H and W multiples of 2 ** depth
        output: (N, num_classes, H, W) logits per pixel

    Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    arXiv:1505.04597, fig. 1.
    """

    def __init__(
        self, *, channels: int = 3, num_classes: int = 2, width: int = 64, depth: int = 4
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            channels: Of the input.
            num_classes: Of the output.
            width: Channels of the top level; each level below has twice as many.
            depth: How often the maps are halved.
        """
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.stem = _double_conv(channels, width)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _double_conv(above, below))
            for above, below in pairwise(widths)
        )
        self.up = nn.ModuleList(Up(below) for below in reversed(widths[1:]))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, num_classes, H, W)."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up in self.up:
            x = up(x, skips.pop())
        logits: Tensor = self.head(x)
        return logits


class Up(nn.Module):
    """Twice the size, half the channels, joined with the maps from the way down."""

    def __init__(self, channels: int) -> None:
        """Build the layers for `channels` from below and half as many from the way down."""
        super().__init__()
        self.rise = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.conv = _double_conv(channels, channels // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (N, C, H, W) and (N, C/2, 2H, 2W) to (N, C/2, 2H, 2W)."""
        result: Tensor = self.conv(torch.cat((skip, self.rise(x)), 1))
        return result


def unet(num_classes: int = 2, width: int = 64) -> UNet:
    """U-Net with the paper's widths unless told otherwise: 31 M parameters at width 64."""
    return UNet(num_classes=num_classes, width=width)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
