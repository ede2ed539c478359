"""The steps as scripts written for pytorch_quantization do them; `pq_workflow` runs them."""

from collections.abc import Iterable
from pathlib import Path

import torch
from pytorch_quantization import calib, enable_onnx_export, quant_modules
from pytorch_quantization import nn as quant_nn
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batches = Iterable[tuple[Tensor, Tensor]]


def define(net: type[nn.Module], weights: dict[str, Tensor], calib_method: str) -> nn.Module:
    """Steps 1 and 2: build it from quantized layers, average pools left float; load weights."""
    for layer in (quant_nn.QuantConv2d, quant_nn.QuantLinear):
        layer.set_default_quant_desc_input(QuantDescriptor(calib_method=calib_method))
    quant_modules.initialize(float_module_list=["AvgPool2d"])
    model = net()
    quant_modules.deactivate()
    model.load_state_dict(weights)
    return model.eval()


def calibrate(model: nn.Module, data: Batches, method: str) -> None:
    """Step 3: statistics of the float model, then an amax out of them by a histogram's method."""
    found = [each for each in model.modules() if isinstance(each, quant_nn.TensorQuantizer)]
    for quantizer in found:
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad():
        for x, _ in data:
            model(x)
    for quantizer in found:
        if isinstance(quantizer._calibrator, calib.MaxCalibrator):
            quantizer.load_calib_amax()
        else:
            quantizer.load_calib_amax(method, percentile=99.999)
        quantizer.disable_calib()
        quantizer.enable_quant()


def quantize_only(model: nn.Module, layer: str) -> None:
    """Step 4: this layer quantized and no other, or all layers for ""."""
    for name, module in model.named_modules():
        if name.endswith("_quantizer"):
            if name.startswith(layer):
                module.enable()
            else:
                module.disable()


def export(model: nn.Module, x: Tensor, path: Path) -> None:
    """Step 5: opset 13, the batch may vary."""
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    with enable_onnx_export():
        torch.onnx.export(model, (x,), path, opset_version=13, dynamo=False, **names)


def finetune(model: nn.Module, data: Batches, steps: int, lr: float) -> None:
    """Step 7: a loop through the rounding; weights get their amax anew at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for x, y in data:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    calib.calibrate_weights(model, method="max")
