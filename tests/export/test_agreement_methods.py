"""Real weights and images: the file is as far from the float net as the simulation says."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_agreement import integer_kernels
from torch import Tensor, nn

from models.resnet import resnet20
from qdq.calibration.choosing import calibrate, choose_ranges
from qdq.data.opening import open_source
from qdq.data.sources import Request
from qdq.export.writing import export_onnx
from qdq.insertion.fusing import fuse
from qdq.insertion.replacing import insert
from qdq.insertion.weights import load_tensors, read_weights
from qdq.validation.running import session

DATA = Path(os.environ.get("QDQ_DATA") or Path(__file__).parents[3] / "shared" / "data")
WEIGHTS = DATA / "cifar10" / "weights" / "resnet20.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES, BATCH = 1000, 50
Logits = NDArray[np.float32]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the real data: set QDQ_DATA to it"),
]


def batches(split: str, count: int) -> list[Tensor]:
    request = Request(split=split, batch_size=BATCH, path=str(DATA), mean=MEAN, std=STD)
    source: Any = open_source("cifar10", request)
    return [x for x, _ in islice(source, count // BATCH)]


@torch.no_grad()
def in_torch(model: nn.Module, images: list[Tensor]) -> Logits:
    return np.concatenate([model(x).numpy() for x in images])


def in_onnxruntime(path: Path, images: list[Tensor], *, optimize: bool) -> Logits:
    opened = session(path, threads=1, optimize=optimize)
    return np.concatenate([opened.run(None, {"input": x.numpy()})[0] for x in images])


def decibels(reference: Logits, other: Logits) -> float:
    wide = reference.astype(np.float64)
    return float(10 * np.log10((wide**2).sum() / ((wide - other) ** 2).sum()))


@pytest.fixture(scope="module")
def quantized() -> tuple[nn.Module, list[Tensor], Logits]:
    """A calibrated net, the test images, and what the float net makes of them."""
    model = resnet20().eval()
    load_tensors(model, read_weights(WEIGHTS), at=str(WEIGHTS))
    images = batches("test", IMAGES)
    reference = in_torch(model, images)
    fuse(model)
    insert(model, images[0], target="onnxruntime")
    calibrate(model, batches("train", 250), progress=False)
    return model, images, reference


@integer_kernels
@pytest.mark.parametrize("method", ["max", "mse"])
def test_simulation_and_file_lose_the_same_decibels(
    tmp_path: Path, quantized: tuple[nn.Module, list[Tensor], Logits], method: str
) -> None:
    model, images, reference = quantized
    choose_ranges(model, method)
    export_onnx(model, images[0], tmp_path / "m.onnx")
    simulated = decibels(reference, in_torch(model, images))
    assert 27 < simulated < 31  # some noise, and not all of it
    for optimize in (True, False):
        logits = in_onnxruntime(tmp_path / "m.onnx", images, optimize=optimize)
        assert abs(decibels(reference, logits) - simulated) < 0.05, f"optimize={optimize}"
