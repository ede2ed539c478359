"""A small YOLO-like detector in plain torch: CSP backbone, two-way neck, three output scales."""

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = 3  # boxes per cell and scale


class Yolo(nn.Module):
    """CSP backbone with spatial pyramid pooling, top-down and bottom-up neck, raw head maps.

    Boxes are not decoded here. Each of the ANCHORS boxes of a cell has 5 + num_classes numbers:
    x, y, width, height, objectness, class scores, all before their sigmoid.

    Shapes:
        input:  (N, 3, H, W) float, RGB in 0..1; H and W multiples of 32
        output: three of (N, ANCHORS * (5 + num_classes), H/s, W/s), s = 8, 16, 32

    Layout after YOLOv5 n (Jocher 2020, doi:10.5281/zenodo.3908559). Head: Redmon and Farhadi 2018,
    arXiv:1804.02767. CSP: Wang et al. 2019, arXiv:1911.11929. Neck: Liu et al. 2018,
    arXiv:1803.01534.
    """

    def __init__(self, *, num_classes: int = 80, width: int = 16) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            num_classes: Scores per box.
            width: Channels after the first convolution; the deepest maps have 16 times as many.
        """
        super().__init__()
        w2, w4, w8, w16 = (width * factor for factor in (2, 4, 8, 16))
        self.stem = nn.Sequential(
            ConvUnit(3, width, 6, 2, 2), ConvUnit(width, w2, 3, 2), Csp(w2, w2, 1)
        )
        self.down8 = nn.Sequential(ConvUnit(w2, w4, 3, 2), Csp(w4, w4, 2))
        self.down16 = nn.Sequential(ConvUnit(w4, w8, 3, 2), Csp(w8, w8, 3))
        self.down32 = nn.Sequential(ConvUnit(w8, w16, 3, 2), Csp(w16, w16, 1), PyramidPool(w16))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral32 = ConvUnit(w16, w8, 1)
        self.top16 = Csp(w16, w8, 1, shortcut=False)
        self.lateral16 = ConvUnit(w8, w4, 1)
        self.out8 = Csp(w8, w4, 1, shortcut=False)
        self.again16 = ConvUnit(w4, w4, 3, 2)
        self.out16 = Csp(w8, w8, 1, shortcut=False)
        self.again32 = ConvUnit(w8, w8, 3, 2)
        self.out32 = Csp(w16, w16, 1, shortcut=False)
        outputs = ANCHORS * (5 + num_classes)
        self.heads = nn.ModuleList(nn.Conv2d(wide, outputs, 1) for wide in (w4, w8, w16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map images (N, 3, H, W) to one map for each of STRIDES."""
        c8 = self.down8(self.stem(x))
        c16 = self.down16(c8)
        t32 = self.lateral32(self.down32(c16))
        t16 = self.lateral16(self.top16(torch.cat((self.upsample(t32), c16), 1)))
        p8 = self.out8(torch.cat((self.upsample(t16), c8), 1))
        p16 = self.out16(torch.cat((self.again16(p8), t16), 1))
        p32 = self.out32(torch.cat((self.again32(p16), t32), 1))
        head8, head16, head32 = self.heads
        return head8(p8), head16(p16), head32(p32)


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, SiLU (Elfwing et al. 2017, arXiv:1702.03118)."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, padding: int | None = None
    ) -> None:
        """Build the layers; padding None keeps the size at stride 1."""
        super().__init__()
        around = size // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, size, stride, around, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        result: Tensor = self.act(self.norm(self.conv(x)))
        return result


class Csp(nn.Module):
    """Half the channels through bottlenecks, half past them, joined by a 1x1 ("C3")."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, shortcut: bool = True) -> None:
        """Build `depth` bottlenecks, each with a shortcut or without."""
        super().__init__()
        half = outputs // 2
        self.through = ConvUnit(inputs, half, 1)
        self.past = ConvUnit(inputs, half, 1)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))
        self.join = ConvUnit(2 * half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        both = torch.cat((self.blocks(self.through(x)), self.past(x)), 1)
        result: Tensor = self.join(both)
        return result


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3, with or without a shortcut around them."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = ConvUnit(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class PyramidPool(nn.Module):
    """Max poolings over 5x5, 9x9 and 13x13, as one 5x5 three times over ("SPPF").

    He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks", arXiv:1406.4729.
    """

    def __init__(self, channels: int) -> None:
        """Build the layers."""
        super().__init__()
        self.enter = ConvUnit(channels, channels // 2, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = ConvUnit(channels // 2 * 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        x = self.enter(x)
        five = self.pool(x)
        nine = self.pool(five)
        result: Tensor = self.leave(torch.cat((x, five, nine, self.pool(nine)), 1))
        return result


def yolo(num_classes: int = 80) -> Yolo:
    """The smallest of its kind: 1.87 M parameters for 80 classes."""
    return Yolo(num_classes=num_classes)
