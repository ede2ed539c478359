"""ResNets: shapes, published sizes, torchvision's names, and real weights on real images."""

from collections.abc import Callable

import pytest
import torch
from model_images import first_images, normalized, percent_right, present
from safetensors.torch import load_file
from torch import nn

from models.residual import PaddedShortcut
from models.resnet import resnet18, resnet20, resnet32, resnet44, resnet50, resnet56

# The 1,000 images measured with the data folder's own definition of the network (zoo.py).
MEASURED = {20: 81.3, 56: 83.4}
CIFAR = {20: resnet20, 32: resnet32, 44: resnet44, 56: resnet56}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", CIFAR)
def test_a_cifar_image_gives_ten_logits(depth: int) -> None:
    assert CIFAR[depth]().eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", CIFAR)
def test_a_cifar_resnet_has_the_layers_its_name_counts(depth: int) -> None:
    layers = [m for m in CIFAR[depth]().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_a_cifar_resnet_is_as_large_as_the_paper_says(depth: int, millions: float) -> None:
    assert round(count(CIFAR[depth]()) / 1e6, 2) == millions  # table 6 of the paper


@pytest.mark.parametrize(("build", "parameters"), [(resnet18, 11_689_512), (resnet50, 25_557_032)])
def test_an_imagenet_resnet_is_as_large_as_published(
    build: Callable[[], nn.Module], parameters: int
) -> None:
    assert count(build()) == parameters


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_the_last_width_is_the_number_of_classes(build: Callable[..., nn.Module]) -> None:
    assert build(num_classes=7).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_resnet18_has_torchvisions_names() -> None:
    shapes = {key: tuple(value.shape) for key, value in resnet18().state_dict().items()}
    assert len(shapes) == 122
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_var"] == (64,)
    assert shapes["layer1.0.conv2.weight"] == (64, 64, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_mean"] == (128,)
    assert shapes["layer4.1.bn2.num_batches_tracked"] == ()
    assert shapes["fc.weight"] == (1000, 512)
    assert "layer1.0.downsample.0.weight" not in shapes


def test_resnet50_has_torchvisions_names_and_strides_at_the_3x3() -> None:
    model = resnet50()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert len(shapes) == 320
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.5.conv3.weight"] == (1024, 256, 1, 1)
    assert shapes["layer4.2.bn3.weight"] == (2048,)
    assert shapes["fc.bias"] == (1000,)
    first = model.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))


def test_option_a_takes_every_other_pixel_and_puts_zeros_on_both_sides() -> None:
    x = torch.arange(32.0).view(1, 2, 4, 4) + 1
    y = PaddedShortcut(2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[0, 1], torch.tensor([[1.0, 3.0], [9.0, 11.0]]))
    assert not y[0, 0].any()
    assert not y[0, 3].any()


@pytest.mark.parametrize("depth", MEASURED)
def test_published_weights_load_strictly_and_are_as_right_as_measured(depth: int) -> None:
    weights = load_file(present(f"cifar10/weights/resnet{depth}.safetensors"))
    assert not any("num_batches_tracked" in key for key in weights)
    model = CIFAR[depth]().eval()
    model.load_state_dict(weights, strict=True)
    images, labels = first_images("cifar10/cifar10_test_jpeg.npz", 1000)
    percent = percent_right(model, normalized(images), labels)
    assert percent == pytest.approx(MEASURED[depth], abs=1.5)
