"""Real images and weights beside the checkout, and how often a model is right about them."""

import io
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

DATA = Path(os.environ.get("QDQ_DATA") or Path(__file__).parents[3] / "shared" / "data")
IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


def present(name: str) -> Path:
    """The path of a data file; the test skips where there is none."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"needs {path}: set QDQ_DATA to the folder of the real data")
    return path


def first_images(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Pixels (count, 3, H, W) in 0..255 and labels (count,) of a file of JPEGs."""
    image = pytest.importorskip("PIL.Image", reason="the images are JPEGs: needs pillow")
    with np.load(present(name), allow_pickle=False) as file:
        blob, ends = file["blob"].tobytes(), file["offsets"][: count + 1]
        labels = torch.from_numpy(file["labels"][:count].astype(np.int64))
    pixels = [
        np.array(image.open(io.BytesIO(blob[start:end])).convert("RGB"))
        for start, end in pairwise(ends)
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    return images, labels


def normalized(pixels: Tensor) -> Tensor:
    return (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD


@torch.no_grad()
def percent_right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    guesses = torch.cat([model(part).argmax(1) for part in images.split(50)])
    return 100 * float((guesses == labels).float().mean())
