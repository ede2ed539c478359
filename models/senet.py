"""A small EfficientNet-like net in plain torch: SiLU, squeeze-excite gates, functional calls."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# expansion, channels, blocks, stride of the first, kernel: table 1 of the paper, its first stages
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 2, 2, 3),
)
SQUEEZE = 4  # the gate's inner width is the block's input over this


class SeNet(nn.Module):
    """Inverted residuals with squeeze-excite gates and SiLU.

    Activations, pooling and gates are calls (`F.silu`, `x * torch.sigmoid(g)`), not modules.

    Shapes:
        input:  (N, 3, H, W) float; any H and W, 32 and up make sense
        output: (N, num_classes) logits

    Tan and Le 2019, "EfficientNet", arXiv:1905.11946, table 1; gates: Hu et al. 2017,
    "Squeeze-and-Excitation Networks", arXiv:1709.01507.
    """

    def __init__(self, *, num_classes: int = 10, width: float = 1.0) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            num_classes: Width of the output.
            width: Factor on all channels, rounded to multiples of 8.
        """
        super().__init__()
        channels = _multiple_of_8(32 * width)
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        blocks: list[nn.Module] = []
        for expansion, wide, count, stride, kernel in STAGES:
            outputs = _multiple_of_8(wide * width)
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(MbConv(channels, outputs, kernel, step, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(4 * channels)
        self.classifier = nn.Linear(4 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.blocks(F.silu(self.stem_norm(self.stem(x))))
        x = F.silu(self.head_norm(self.head(x)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class MbConv(nn.Module):
    """1x1 that widens, depthwise, gate, 1x1 that narrows; a shortcut if the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        """Build the layers; there is no widening at expansion 1."""
        super().__init__()
        wide = inputs * expansion
        self.widen = nn.Conv2d(inputs, wide, 1, bias=False) if expansion != 1 else None
        self.widen_norm = nn.BatchNorm2d(wide) if expansion != 1 else None
        self.depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(wide)
        self.squeeze = nn.Conv2d(wide, max(1, inputs // SQUEEZE), 1)
        self.excite = nn.Conv2d(max(1, inputs // SQUEEZE), wide, 1)
        self.narrow = nn.Conv2d(wide, outputs, 1, bias=False)
        self.narrow_norm = nn.BatchNorm2d(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        wide = x
        if self.widen is not None and self.widen_norm is not None:
            wide = F.silu(self.widen_norm(self.widen(x)))
        wide = F.silu(self.depthwise_norm(self.depthwise(wide)))
        wide = wide * torch.sigmoid(self.gate(wide))
        y: Tensor = self.narrow_norm(self.narrow(wide))
        return x + y if self.has_shortcut else y

    def gate(self, x: Tensor) -> Tensor:
        """One number per channel from its mean over the image: (N, C, H, W) -> (N, C, 1, 1)."""
        mean = F.adaptive_avg_pool2d(x, 1)
        result: Tensor = self.excite(F.silu(self.squeeze(mean)))
        return result


def senet(num_classes: int = 10, width: float = 1.0) -> SeNet:
    """Seven blocks: 235,210 parameters for 10 classes."""
    return SeNet(num_classes=num_classes, width=width)


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, but at least 8."""
    return max(8, int(channels + 4) // 8 * 8)
