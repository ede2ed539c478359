"""Real weights and images: as the torch model's own way, and no worse than quantize_static."""

import copy
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

import qdq
from models.resnet import resnet20
from qdq.data.opening import open_source
from qdq.data.sources import Request
from qdq.export.tracing import to_onnx
from qdq.graph import quantize
from qdq.insertion.weights import load_tensors, read_weights
from qdq.sites import is_weight
from tests.graph.quantizing.float_nets import run

DATA = Path(os.environ.get("QDQ_DATA") or Path(__file__).parents[4] / "shared" / "data")
WEIGHTS = DATA / "cifar10" / "weights" / "resnet20.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 50
Images = list[NDArray[np.float32]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the real data: set QDQ_DATA to it"),
]


def batches(split: str, count: int) -> Images:
    request = Request(split=split, batch_size=BATCH, path=str(DATA), mean=MEAN, std=STD)
    source: Any = open_source("cifar10", request)
    return [x.numpy() for x, _ in islice(source, count // BATCH)]


def decibels(float_file: Path, path: Path, images: Images) -> float:
    reference, other = (
        np.concatenate([run(each, {"input": x})[0] for x in images]).astype(float)
        for each in (float_file, path)
    )
    return float(10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum()))


@pytest.fixture(scope="module")
def net() -> Any:
    model = resnet20().eval()
    load_tensors(model, read_weights(WEIGHTS), at=str(WEIGHTS))
    return model


@pytest.fixture(scope="module")
def float_file(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "float.onnx"
    example = open_source("cifar10", Request(split="test", batch_size=1, path=str(DATA)))
    onnx.save(to_onnx(net, next(iter(example))[0]), path)  # type: ignore[index]
    return path


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self.batches: Iterator[dict[str, Any]] = iter([{"input": x} for x in images])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def test_it_loses_no_more_than_quantize_static_at_its_best(
    float_file: Path, tmp_path: Path
) -> None:
    images, unseen = batches("train", 250), batches("test", 500)
    quantize(float_file, tmp_path / "q.onnx", images, target="onnxruntime", progress=False)
    ours = decibels(float_file, tmp_path / "q.onnx", unseen)
    logging.getLogger().setLevel(logging.ERROR)
    theirs = []
    methods = (CalibrationMethod.MinMax, CalibrationMethod.Percentile)
    for method in methods:
        quantize_static(
            float_file,
            tmp_path / "static.onnx",
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )
        theirs.append(decibels(float_file, tmp_path / "static.onnx", unseen))
    assert ours >= max(theirs)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_codes_and_scales_are_those_of_the_torch_model(
    net: Any, float_file: Path, tmp_path: Path, target: str
) -> None:
    images = batches("train", 100)
    report = quantize(
        float_file, tmp_path / "q.onnx", images, target=target, method="max", progress=False
    )
    model = copy.deepcopy(net)
    tensors = [torch.from_numpy(x) for x in images]
    qdq.insert(model, tensors[0], target=target)
    qdq.calibrate(model, tensors, method="max", progress=False)
    qdq.export_onnx(model, tensors[0], tmp_path / "t.onnx")
    assert len(report.ranges) == sum(not is_weight(site) for site in active(model))
    for ending in (".scale", ".codes"):
        ours, theirs = (held(tmp_path / name, ending) for name in ("q.onnx", "t.onnx"))
        assert [each.shape for each in ours] == [each.shape for each in theirs]
        for one, other in zip(ours, theirs, strict=True):
            if one.dtype == np.int8:  # BatchNorms are folded by other means: ties may fall apart
                assert np.abs(one.astype(int) - other).max() <= 1
            elif ending == ".scale":
                np.testing.assert_allclose(one, other, rtol=1e-3)


def active(model: torch.nn.Module) -> list[str]:
    return [site for site, quantizer in qdq.quantizers(model).items() if quantizer.on]


def held(path: Path, ending: str) -> list[NDArray[Any]]:
    """Arrays whose names end so, in an order that does not depend on the rest of the names."""
    graph = onnx.load(path).graph
    found = [numpy_helper.to_array(x) for x in graph.initializer if x.name.endswith(ending)]
    return sorted(found, key=lambda each: (each.shape, float(np.abs(each).astype(float).sum())))
