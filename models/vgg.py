"""A small VGG for CIFAR images in plain torch."""

import torch
from torch import Tensor, nn


class Vgg(nn.Module):
    """Stages of two 3x3 convolutions and a max pooling, then two linear layers.

    The paper's shape at CIFAR's size: it has five stages, up to 512 channels, and no BatchNorm.

    Shapes:
        input:  (N, 3, 32, 32) float, normalized RGB
        output: (N, num_classes) logits

    Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", arXiv:1409.1556, table 1.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64, 128),
        num_classes: int = 10,
        batch_norm: bool = True,
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            widths: Channels of each stage; each stage halves the maps, so five at most.
            num_classes: Width of the output.
            batch_norm: Put a BatchNorm between each convolution and its ReLU.

        Raises:
            ValueError: The stages are none or more than five.
        """
        super().__init__()
        if not 1 <= len(widths) <= 5:
            raise ValueError(
                f"widths={widths} makes {len(widths)} stages of a 32x32 image\n"
                "  fix: pass one to five widths"
            )
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += _conv(channels, width, batch_norm) + _conv(width, width, batch_norm)
            layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        side = 32 // 2 ** len(widths)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, 256),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(256, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def vgg_small(num_classes: int = 10) -> Vgg:
    """Six convolutions and two linear layers, with BatchNorm: 0.81 M parameters."""
    return Vgg(num_classes=num_classes)


def _conv(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
    return [conv, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]
