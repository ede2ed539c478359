"""Nets with trained weights and real images for them, in $QDQ_DATA, and what they say to them."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from qdq.data.opening import open_source
from qdq.data.sources import Request

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from models.resnet import resnet20, resnet56
from models.squeezenet import squeezenet1_1
from models.weights import read_npz

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batches = tuple[Tensor, ...]


@dataclass(frozen=True)
class RealNet:
    """A net, its weights and its images.

    Attributes:
        build: gives the net with random weights.
        weights: file in $QDQ_DATA.
        source: name of the images.
        images: how many there are to test it on.
    """

    build: Callable[[], nn.Module]
    weights: str
    source: str
    images: int

    def model(self) -> nn.Module:
        """The trained net, in eval mode; without $QDQ_DATA, the end of the script."""
        if "QDQ_DATA" not in os.environ:
            sys.exit("set QDQ_DATA to the folder that holds cifar10 and imagenet")
        model, path = self.build().eval(), Path(os.environ["QDQ_DATA"]) / self.weights
        model.load_state_dict(read_npz(path) if path.suffix == ".npz" else load_file(path))
        return model

    def first(self, split: str, count: int) -> tuple[Batches, NDArray[np.int64]]:
        """Images in batches of (BATCH, 3, S, S), and the labels (N,) of all of them.

        Args:
            split: "train" or "test".
            count: how many images; fewer where there are no more.
        """
        request = Request(split=split, batch_size=BATCH, mean=MEAN, std=STD)
        batches: Any = islice(open_source(self.source, request), -(-count // BATCH))
        images, labels = (torch.cat(each)[:count] for each in zip(*batches, strict=True))
        return images.split(BATCH), labels.numpy()


_CIFAR, _IMAGENET = "cifar10/weights/resnet{}.safetensors", "imagenet/weights/{}.npz"
NETS = {
    "resnet20": RealNet(resnet20, _CIFAR.format(20), "cifar10", 10_000),
    "resnet56": RealNet(resnet56, _CIFAR.format(56), "cifar10", 10_000),
    "squeezenet": RealNet(squeezenet1_1, _IMAGENET.format("squeezenet1_1"), "imagenet", 1_000),
}


@torch.no_grad()
def in_torch(model: nn.Module, images: Batches) -> NDArray[np.float32]:
    """(N, classes) of all images."""
    return np.concatenate([model(x).numpy() for x in images])


def in_onnxruntime(path: Path, images: Batches) -> NDArray[np.float32]:
    """(N, classes) of all images."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": x.numpy()})[0] for x in images])
