"""SqueezeNet 1.1: shapes, the published size, torchvision's names, real weights on real images."""

import pytest
import torch
from model_images import first_images, normalized, percent_right, present

from models.squeezenet import squeezenet1_1
from models.weights import read_npz

WEIGHTS = "imagenet/weights/squeezenet1_1.npz"
IMAGES = "imagenet/imagenet1k_one_per_class_224_q90.npz"
MEASURED = 68.0  # the first 200 images, with the data folder's own definition (zoo.py)


def test_an_image_gives_one_score_per_class() -> None:
    assert squeezenet1_1(num_classes=7).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_it_is_as_large_as_published() -> None:
    assert sum(parameter.numel() for parameter in squeezenet1_1().parameters()) == 1_235_496


def test_it_has_torchvisions_names() -> None:
    shapes = {key: tuple(value.shape) for key, value in squeezenet1_1().state_dict().items()}
    assert len(shapes) == 52
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["features.3.squeeze.weight"] == (16, 64, 1, 1)
    assert shapes["features.7.expand1x1.bias"] == (128,)
    assert shapes["features.12.expand3x3.weight"] == (256, 64, 3, 3)
    assert shapes["classifier.1.weight"] == (1000, 512, 1, 1)


def test_the_published_weights_load_strictly_and_are_as_right_as_measured() -> None:
    model = squeezenet1_1().eval()
    model.load_state_dict(read_npz(present(WEIGHTS)), strict=True)
    pixels, labels = first_images(IMAGES, 200)
    percent = percent_right(model, normalized(pixels), labels)
    assert percent == pytest.approx(MEASURED, abs=1.0)
