"""A small SSD-like detector in plain torch: one backbone, heads on four maps, one list of boxes."""

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32, 64)
BOXES = (4, 6, 6, 4)  # default boxes per cell of each map


class Ssd(nn.Module):
    """Single-shot detector: every cell of four maps scores and places its default boxes.

    Boxes are not decoded here.

    Shapes:
        input:   (N, 3, H, W) float; H and W multiples of 64
        outputs: scores (N, B, num_classes + 1) before their softmax, class 0 is background, and
            places (N, B, 4) relative to the default boxes. B: boxes of all cells, of the finest
            map first, by row, column and box.

    Liu et al. 2015, "SSD: Single Shot MultiBox Detector", arXiv:1512.02325, fig. 2; its VGG is
    replaced by a few convolutions, its scaling of the finest map by BatchNorm.
    """

    def __init__(self, *, num_classes: int = 20, width: int = 16) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            num_classes: Classes without the background.
            width: Channels after the first convolution; the last maps have 8 times as many.
        """
        super().__init__()
        w2, w4, w8 = 2 * width, 4 * width, 8 * width
        self.num_scores = num_classes + 1
        self.backbone = nn.Sequential(
            _unit(3, width, 3, 2), _unit(width, w2, 3, 2), _unit(w2, w4, 3, 2), _unit(w4, w4, 3)
        )
        self.extras = nn.ModuleList(
            nn.Sequential(_unit(inputs, w2, 1), _unit(w2, w8, 3, 2)) for inputs in (w4, w8, w8)
        )
        sizes = list(zip((w4, w8, w8, w8), BOXES, strict=True))
        self.scores = nn.ModuleList(
            nn.Conv2d(wide, boxes * self.num_scores, 3, padding=1) for wide, boxes in sizes
        )
        self.places = nn.ModuleList(
            nn.Conv2d(wide, boxes * 4, 3, padding=1) for wide, boxes in sizes
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, 3, H, W) to scores (N, B, num_classes + 1) and places (N, B, 4)."""
        maps = [self.backbone(x)]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        scores = [
            _rows(head(each), self.num_scores) for head, each in zip(self.scores, maps, strict=True)
        ]
        places = [_rows(head(each), 4) for head, each in zip(self.places, maps, strict=True)]
        return torch.cat(scores, 1), torch.cat(places, 1)


def ssd(num_classes: int = 20) -> Ssd:
    """Four maps: 701,380 parameters for 20 classes."""
    return Ssd(num_classes=num_classes)


def _rows(x: Tensor, size: int) -> Tensor:
    """One row per box: (N, boxes * size, H, W) -> (N, H * W * boxes, size)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, size)


def _unit(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
