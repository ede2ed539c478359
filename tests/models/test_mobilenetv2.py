"""MobileNetV2: both forms, published sizes, torchvision's names, TensorFlow's padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from model_images import first_images, percent_right, present
from torch import nn
from torch.nn import functional as F

from models.mobilenetv2 import (
    load_mobilenet_v2_tf,
    load_mobilenet_v2_tf_classes,
    mobilenet_v2,
    mobilenet_v2_tf,
)

WEIGHTS = "imagenet/weights/mobilenet_v2_tfquant_dequant.npz"
IMAGES = "imagenet/imagenet1k_one_per_class_224_q90.npz"
MEASURED = 79.5  # the first 200 images, with the data folder's own definition (zoo.py)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_an_image_gives_one_logit_per_class() -> None:
    images = torch.zeros(1, 3, 64, 64)
    assert mobilenet_v2(num_classes=7).eval()(images).shape == (1, 7)
    assert mobilenet_v2_tf().eval()(images).shape == (1, 1001)


def test_it_is_as_large_as_published() -> None:
    assert count(mobilenet_v2()) == 3_504_872


@pytest.mark.parametrize(("width", "millions"), [(0.5, 1.97), (0.75, 2.64), (1.4, 6.11)])
def test_narrow_and_wide_ones_are_as_large_as_published(width: float, millions: float) -> None:
    assert round(count(mobilenet_v2(width=width)) / 1e6, 2) == millions  # timm's results table


def test_it_has_torchvisions_names() -> None:
    shapes = {key: tuple(value.shape) for key, value in mobilenet_v2().state_dict().items()}
    assert len(shapes) == 314
    assert shapes["features.0.0.weight"] == (32, 3, 3, 3)
    assert shapes["features.0.1.running_mean"] == (32,)
    assert shapes["features.1.conv.0.0.weight"] == (32, 1, 3, 3)
    assert shapes["features.1.conv.1.weight"] == (16, 32, 1, 1)
    assert shapes["features.1.conv.2.bias"] == (16,)
    assert shapes["features.2.conv.1.0.weight"] == (96, 1, 3, 3)
    assert shapes["features.17.conv.3.num_batches_tracked"] == ()
    assert shapes["features.18.0.weight"] == (1280, 320, 1, 1)
    assert shapes["classifier.1.weight"] == (1000, 1280)


def test_ten_blocks_have_a_shortcut() -> None:
    assert sum(getattr(each, "has_shortcut", False) for each in mobilenet_v2().modules()) == 10


@torch.no_grad()
def test_the_folded_form_pads_strided_convolutions_as_tensorflow_does() -> None:
    first = mobilenet_v2_tf().features[0]
    conv, x = first[1], torch.randn(1, 3, 32, 32)
    # 'SAME': out = ceil(32 / 2) = 16, so (16 - 1) * 2 + 3 - 32 = 1 row in all, none of it above.
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2).clamp(0, 6)
    torch.testing.assert_close(first(x), expected)


def test_loading_places_every_layer_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **numbered_weights(), _order=np.array(["conv0.weight"]))
    model = load_mobilenet_v2_tf(path)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [layer.bias[0].item() for layer in layers] == list(range(53))
    assert not model.training


@pytest.mark.parametrize("name", ["conv0.bias", "dwconv4.weight", "conv52.weight"])
def test_a_missing_array_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.npz"
    arrays = numbered_weights()
    del arrays[name]
    np.savez(path, **arrays)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_mobilenet_v2_tf(path)


def test_the_tensorflow_weights_are_as_right_as_measured() -> None:
    model = load_mobilenet_v2_tf(present(WEIGHTS))
    pixels, labels = first_images(IMAGES, 200)
    percent = percent_right(model, (pixels - 128) / 127, labels + 1)
    assert percent == pytest.approx(MEASURED, abs=1.0)


@torch.no_grad()
def test_without_the_background_class_the_others_keep_their_logits() -> None:
    path = present(WEIGHTS)
    pixels, labels = first_images(IMAGES, 8)
    whole, classes = load_mobilenet_v2_tf(path), load_mobilenet_v2_tf_classes(path)
    images = (pixels - 128) / 127
    torch.testing.assert_close(classes(images), whole(images)[:, 1:])
    assert percent_right(classes, images, labels) == percent_right(whole, images, labels + 1)


def numbered_weights() -> dict[str, np.ndarray]:
    """Arrays as the file names them; the biases of layer i are i."""
    layers = [m for m in mobilenet_v2_tf().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    arrays: dict[str, np.ndarray] = {}
    for index, layer in enumerate(layers):
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
        name = f"{'dwconv' if depthwise else 'conv'}{index}"
        shape = tuple(layer.weight.shape)
        arrays[f"{name}.weight"] = np.zeros(shape if len(shape) == 4 else (*shape, 1, 1))
        arrays[f"{name}.bias"] = np.full(shape[0], float(index))
    return arrays
