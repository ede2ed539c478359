"""The blocks of the ResNets and how they make a stage.

He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, fig. 5.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, inputs, H, W) -> (N, width, H/stride, W/stride)."""

    expansion = 1  # channels out per unit of width

    def __init__(
        self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        """Build the layers; `downsample` makes the shortcut fit, None where it fits already."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 and a shortcut: (N, inputs, H, W) -> (N, 4 width, H/s, W/s)."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        """Build the layers; `downsample` makes the shortcut fit, None where it fits already."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, 4 width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class PaddedShortcut(nn.Module):
    """Option A: every other pixel, and zeros for the new channels, half of them on each side."""

    def __init__(self, new: int) -> None:
        """Keep the number of new channels."""
        super().__init__()
        self.before, self.after = new // 2, new - new // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + new, H/2, W/2)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


def stage(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    width: int,
    count: int,
    stride: int,
    shortcut: Callable[[int, int, int], nn.Module],
) -> nn.Sequential:
    """Blocks of which only the first changes the shape.

    Args:
        block: BasicBlock or Bottleneck.
        inputs: Channels in.
        width: Of the blocks; channels out are `width * block.expansion`.
        count: How many blocks.
        stride: Of the first block.
        shortcut: Makes the shortcut of the first, from channels in, channels out and stride.
    """
    outputs = width * block.expansion
    changes = stride != 1 or inputs != outputs
    first = block(inputs, width, stride, shortcut(inputs, outputs, stride) if changes else None)
    return nn.Sequential(first, *(block(outputs, width) for _ in range(count - 1)))
