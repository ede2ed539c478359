"""What the tests of the old names share: a reference in numpy, a small net, and calibration."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdq.compat.pytorch_quantization import nn as quant_nn

Floats = NDArray[np.float32]


def numpy_fake_quant(
    x: Floats, amax: Any, *, bits: int = 8, unsigned: bool = False, narrow: bool = False
) -> Floats:
    """round(x * bound / amax) / (bound / amax), by the formula, in float32."""
    bound = 2.0 ** (bits - 1 + unsigned) - 1
    scale = (np.float32(bound) / np.asarray(amax, np.float32)).astype(np.float32)
    lowest = 0 if unsigned else -bound - (not narrow)
    return (np.clip(np.rint(x * scale), lowest, bound) / scale).astype(np.float32)


def float_net() -> nn.Sequential:
    """(N, 3, 8, 8) -> (N, 5); looked up in torch.nn when it is called."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).eval()


def quant_net() -> nn.Sequential:
    """`float_net` of quantized layers, with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        quant_nn.QuantConv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        quant_nn.QuantConvTranspose2d(8, 4, 2, stride=2),
        quant_nn.QuantAvgPool2d(4),
        nn.Flatten(),
        quant_nn.QuantLinear(64, 5),
    ).eval()


def images(seed: int = 1) -> Tensor:
    """(2, 3, 8, 8)."""
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def quantizers_of(model: nn.Module) -> Iterator[quant_nn.TensorQuantizer]:
    """Every one of the old class."""
    return (each for each in model.modules() if isinstance(each, quant_nn.TensorQuantizer))


def calibrated(model: nn.Module, *inputs: Any, **compute: Any) -> Any:
    """The model after the steps that every script of old went through."""
    found = list(quantizers_of(model))
    for quantizer in found:
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad():
        model(*inputs)
    for quantizer in found:
        quantizer.load_calib_amax(**compute)
        quantizer.disable_calib()
        quantizer.enable_quant()
    return model


def run_onnx(content: bytes, *inputs: Tensor) -> Floats:
    """First output of onnxruntime, with its own rewriting switched off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    result: Floats = session.run(None, feeds)[0]
    return result


def built_under(switch: Callable[[], Any], undo: Callable[[], Any]) -> nn.Module:
    """`float_net` built between a switch and its undoing."""
    switch()
    try:
        return copy.deepcopy(float_net())
    finally:
        undo()
