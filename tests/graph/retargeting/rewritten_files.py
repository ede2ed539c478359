"""Files to rewrite: exported nets, files of onnxruntime's quantizer, and how files are run."""

import atexit
import logging
import shutil
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn
from torch.nn import functional as F

import qdq
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.graph.retargeting.notes import RANGES
from tests.export.export_nets import Functional, built, conv, example, prepared

_FOLDER = Path(mkdtemp(prefix="rewritten"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@cache
def exported(name: str, target: str, *, noted: bool = False) -> Path:
    """A tiny net written for a target; with its calibrated ranges noted, or without."""
    path = _FOLDER / f"{name}.{target}.{noted}.onnx"
    export_onnx(prepared(name, target), example(name), path, target=target)
    if not noted:
        written = onnx.load(path)
        kept = {each.key: each.value for each in written.metadata_props if each.key != RANGES}
        del written.metadata_props[:]
        onnx.helper.set_model_props(written, kept)
        onnx.save(written, path)
    return path


def residual() -> nn.Module:
    """Two branches that are added, in float."""

    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(net.stem(x)), 2)
        y = net.c2(F.relu(net.c1(x)))
        x = F.relu(y + net.down(x))
        return net.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return Functional(
        run, stem=conv(3, 8), c1=conv(8, 8, stride=2), c2=conv(8, 8),
        down=nn.Conv2d(8, 8, 1, stride=2), head=nn.Linear(8, 5),
    )  # fmt: skip


def seen(name: str) -> Any:
    """Inputs that calibration saw."""
    return example("identity_skip" if name == "residual" else name).numpy()


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: dict[str, Any]) -> None:
        self._rows = iter([rows])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)


@cache
def quantized_by_onnxruntime(
    name: str, activation: str, weight: str, *, per_channel: bool, symmetric: bool
) -> Path:
    """A tiny net through onnxruntime's quantize_static, in the Q/DQ form."""
    path = _FOLDER / f"{name}.{activation}.{weight}.{per_channel}.{symmetric}.onnx"
    before = path.with_suffix(".float.onnx")
    torch.manual_seed(0)
    model = (residual() if name == "residual" else built(name)).eval()
    qdq.fuse(model)
    x = torch.from_numpy(seen(name))
    before.write_bytes(to_onnx(model, x, opset=13).SerializeToString())
    given = onnx.load(before).graph.input[0].name
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_static(
                before, path, _Rows({given: seen(name)}),
                quant_format=QuantFormat.QDQ, per_channel=per_channel,
                activation_type=QuantType[activation], weight_type=QuantType[weight],
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return path


def ran(path: Path, inputs: Any, *, optimize: bool = False) -> list[Any]:
    """What onnxruntime makes of inputs: as the operators say, or with its own kernels."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    if isinstance(inputs, dict):
        return list(session.run(None, {key: each.numpy() for key, each in inputs.items()}))
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    feed = {name: np.asarray(each) for name, each in zip(names, values, strict=True)}
    return list(session.run(None, feed))


def decibels(reference: list[Any], other: list[Any]) -> float:
    """Signal to noise, written apart from the library's."""
    signal = sum(float((each.astype(np.float64) ** 2).sum()) for each in reference)
    noise = sum(
        float(((a.astype(np.float64) - b) ** 2).sum())
        for a, b in zip(reference, other, strict=True)
    )
    return float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def initializers(path: Path) -> dict[str, Any]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def code_types(path: Path) -> set[str]:
    """The types of the zero points that activations are quantized with."""
    held = initializers(path)
    nodes = onnx.load(path).graph.node
    return {str(held[each.input[2]].dtype) for each in nodes if each.op_type == "QuantizeLinear"}


def weight_codes(path: Path) -> list[Any]:
    """The int8 constants of rank 2 and more, without names, in order of size and content."""
    found = [
        each for each in initializers(path).values() if each.dtype == np.int8 and each.ndim > 1
    ]
    return sorted((each for each in found), key=lambda each: (each.size, each.tobytes()))


def fresh(name: str) -> Any:
    """Inputs that no calibration saw."""
    torch.manual_seed(0)
    return example(name, 4, seed=9)
