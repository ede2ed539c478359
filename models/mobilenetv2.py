"""MobileNetV2 in plain torch: as torchvision has it, and as TensorFlow's INT8 weights want it."""

import os

import torch
from torch import Tensor, nn

from models.weights import read_npz

# expansion, channels, blocks, stride of the first: table 2 of the paper
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """MobileNetV2: inverted residuals with linear bottlenecks.

    Shapes:
        input:  (N, 3, S, S) float, see the factories; S a multiple of 32, by custom 224
        output: (N, num_classes) logits

    Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    arXiv:1801.04381, table 2.
    """

    def __init__(
        self, *, num_classes: int = 1000, width: float = 1.0, folded: bool = False
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            num_classes: Width of the output.
            width: Factor on all channels, rounded to multiples of 8; the last layer never shrinks.
            folded: No BatchNorm, biases instead, and TensorFlow's padding 'SAME': where S is a
                multiple of 32, a strided 3x3 gets one row below and one column at the right.
        """
        super().__init__()
        channels, last = _multiple_of_8(32 * width), _multiple_of_8(1280 * max(1.0, width))
        layers: list[nn.Module] = [_unit(3, channels, 3, stride=2, folded=folded)]
        for expansion, wide, blocks, stride in STAGES:
            outputs = _multiple_of_8(wide * width)
            for index in range(blocks):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(channels, outputs, step, expansion, folded=folded))
                channels = outputs
        layers.append(_unit(channels, last, 1, folded=folded))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, S, S) to logits (N, num_classes)."""
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        logits: Tensor = self.classifier(x)
        return logits


class InvertedResidual(nn.Module):
    """1x1 that widens, depthwise 3x3, linear 1x1 that narrows; a shortcut if the shape stays."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, *, folded: bool
    ) -> None:
        """Build the layers; see `MobileNetV2` for `folded`."""
        super().__init__()
        wide = inputs * expansion
        widen = [_unit(inputs, wide, 1, folded=folded)] if expansion != 1 else []
        depthwise = _unit(wide, wide, 3, stride=stride, groups=wide, folded=folded)
        narrow = nn.Conv2d(wide, outputs, 1, bias=folded)
        norm = [] if folded else [nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*widen, depthwise, narrow, *norm)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


def mobilenet_v2(num_classes: int = 1000, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2 with the state keys of torchvision: 3,504,872 parameters.

    Input: RGB in 0..1, less the ImageNet mean, over its deviation.
    """
    return MobileNetV2(num_classes=num_classes, width=width)


def mobilenet_v2_tf() -> MobileNetV2:
    """MobileNetV2 1.0/224 of TensorFlow, BatchNorm folded; output 0 is background, 1 + class else.

    Input: RGB as (pixel - 128) / 127, pixels in 0..255. Labels in torchvision's order need + 1,
    or take `logits[:, 1:]`.
    """
    return MobileNetV2(num_classes=1001, folded=True)


def load_mobilenet_v2_tf(path: str | os.PathLike[str]) -> MobileNetV2:
    """`mobilenet_v2_tf()` in eval mode with the weights of a .npz file.

    Args:
        path: Its arrays are named by kind and place, `conv0`, `dwconv1`, ... `conv52`, each with
            `.weight` and `.bias`; the last is a 1x1 convolution (1001, 1280, 1, 1).

    Raises:
        OSError: The file cannot be read.
        RuntimeError: A tensor is missing, left over, or of another shape.
    """
    model = mobilenet_v2_tf().eval()
    tensors = read_npz(path)
    for index, (name, layer) in enumerate(_layers(model)):
        file_name = f"{'dwconv' if getattr(layer, 'groups', 1) > 1 else 'conv'}{index}"
        for kind in ("weight", "bias"):
            if f"{file_name}.{kind}" in tensors:
                tensors[f"{name}.{kind}"] = tensors.pop(f"{file_name}.{kind}")
    head = "classifier.1.weight"
    if head in tensors:
        tensors[head] = tensors[head].flatten(1)
    model.load_state_dict(tensors)
    return model


def load_mobilenet_v2_tf_classes(path: str | os.PathLike[str]) -> MobileNetV2:
    """`load_mobilenet_v2_tf` without its background output: (N, 1000), numbered as ImageNet's."""
    model = load_mobilenet_v2_tf(path)
    whole = model.classifier[1]
    head = nn.Linear(whole.in_features, whole.out_features - 1).eval()
    with torch.no_grad():
        head.weight.copy_(whole.weight[1:])
        head.bias.copy_(whole.bias[1:])
    model.classifier[1] = head
    return model


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers with weights, in the order of the forward."""
    kinds = (nn.Conv2d, nn.Linear)
    return [(name, each) for name, each in model.named_modules() if isinstance(each, kinds)]


def _unit(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, folded: bool
) -> nn.Sequential:
    """Convolution, BatchNorm (or padding before, if folded) and ReLU6."""
    below_and_right = folded and stride == 2
    padding = 0 if below_and_right else size // 2
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=folded)
    pad = [nn.ZeroPad2d((0, 1, 0, 1))] if below_and_right else []
    norm = [] if folded else [nn.BatchNorm2d(outputs)]
    return nn.Sequential(*pad, conv, *norm, nn.ReLU6())


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, but at least 8 and never more than a tenth below `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
