"""ResNets for CIFAR-10 and ImageNet in plain torch, with the state keys of their usual weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.residual import BasicBlock, Bottleneck, PaddedShortcut, stage


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) with shortcuts of option A: subsampled, new channels zero, no weights.

    State keys are those of akamaster/pytorch_resnet_cifar10. Its files lack the counters
    `num_batches_tracked` of the BatchNorms, which nothing reads in eval mode. A strict
    `load_state_dict(safetensors.torch.load_file(path))` takes them all the same: torch puts in
    the counters that a plain dict lacks.

    Shapes:
        input:  (N, 3, 32, 32) float, RGB in 0..1, less the ImageNet mean, over its deviation
        output: (N, 10) logits

    He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, sec. 4.2.
    """

    def __init__(self, blocks: int, *, num_classes: int = 10) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            blocks: Blocks in each of the three stages, the n of the paper.
            num_classes: Width of the output.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(BasicBlock, 16, 16, blocks, 1, _padded)
        self.layer2 = stage(BasicBlock, 16, 32, blocks, 2, _padded)
        self.layer3 = stage(BasicBlock, 32, 64, blocks, 2, _padded)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class ResNet(nn.Module):
    """ResNet for ImageNet with projection shortcuts (option B); state keys of torchvision.

    Shapes:
        input:  (N, 3, S, S) float, RGB in 0..1, less the ImageNet mean, over its deviation; S = 224
        output: (N, 1000) logits

    He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1; a
    bottleneck has its stride at the 3x3 ("v1.5"), as in torchvision, not at the first 1x1.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        *,
        num_classes: int = 1000,
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            block: BasicBlock or Bottleneck.
            blocks: How many of them each stage has.
            num_classes: Width of the output.
        """
        super().__init__()
        out = block.expansion
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, 64, 64, blocks[0], 1, _projected)
        self.layer2 = stage(block, 64 * out, 128, blocks[1], 2, _projected)
        self.layer3 = stage(block, 128 * out, 256, blocks[2], 2, _projected)
        self.layer4 = stage(block, 256 * out, 512, blocks[3], 2, _projected)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * out, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, S, S) to logits (N, 1000)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def resnet20() -> CifarResNet:
    """ResNet-20 for CIFAR-10: 0.27 M parameters."""
    return CifarResNet(3)


def resnet32() -> CifarResNet:
    """ResNet-32 for CIFAR-10: 0.46 M parameters."""
    return CifarResNet(5)


def resnet44() -> CifarResNet:
    """ResNet-44 for CIFAR-10: 0.66 M parameters."""
    return CifarResNet(7)


def resnet56() -> CifarResNet:
    """ResNet-56 for CIFAR-10: 0.85 M parameters."""
    return CifarResNet(9)


def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18 for ImageNet: 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=num_classes)


def resnet50(num_classes: int = 1000) -> ResNet:
    """ResNet-50 (v1.5) for ImageNet: 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes=num_classes)


def _projected(inputs: int, outputs: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _padded(inputs: int, outputs: int, stride: int) -> nn.Module:
    return PaddedShortcut(outputs - inputs)
