"""SqueezeNet 1.1 in plain torch, with the state keys of torchvision."""

import torch
from torch import Tensor, nn


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: fire modules and no linear layer.

    The weights of forresti/SqueezeNet come as .npz, partly in half precision:
    `load_state_dict(read_npz(path))` of `models.weights` takes them strictly.

    Shapes:
        input:  (N, 3, S, S) float, RGB in 0..1, less the ImageNet mean, over its deviation; S = 224
        output: (N, num_classes) scores, none below zero: the last convolution has a ReLU

    Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters",
    arXiv:1602.07360, table 1; version 1.1 is that of github.com/forresti/SqueezeNet.
    """

    def __init__(self, *, num_classes: int = 1000) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            num_classes: Width of the output.
        """
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(512, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, S, S) to scores (N, num_classes)."""
        return torch.flatten(self.classifier(self.features(x)), 1)


class Fire(nn.Module):
    """A 1x1 that squeezes, then a 1x1 and a 3x3 that expand, side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        """Build the layers.

        Args:
            inputs: Channels in.
            squeezed: Channels between.
            expanded: Channels of each of the two halves of the output.
        """
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, 2 expanded, H, W)."""
        x = self.squeeze_activation(self.squeeze(x))
        small = self.expand1x1_activation(self.expand1x1(x))
        large = self.expand3x3_activation(self.expand3x3(x))
        return torch.cat((small, large), 1)


def squeezenet1_1(num_classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.1 for ImageNet: 1,235,496 parameters."""
    return SqueezeNet(num_classes=num_classes)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
