"""Code the way users of pytorch_quantization wrote it: helpers, loops and flags of their own."""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pq_nets import calibrated, float_net, images, numpy_fake_quant, quantizers_of, run_onnx
from torch import Tensor, nn

from qdq.compat.pytorch_quantization import calib, quant_modules
from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization.nn.modules import _utils as quant_nn_utils
from qdq.compat.pytorch_quantization.tensor_quant import QuantDescriptor
from qdq.compat.pytorch_quantization.utils import reduce_amax


@pytest.fixture
def _exporting_the_old_way() -> Iterator[None]:
    quant_nn.TensorQuantizer.use_fb_fake_quant = True
    yield
    quant_nn.TensorQuantizer.use_fb_fake_quant = False


def transfer_torch_to_quantization(nn_instance: nn.Module, quant_module: Any) -> nn.Module:
    quant_instance = quant_module.__new__(quant_module)
    for name, value in vars(nn_instance).items():
        setattr(quant_instance, name, value)

    def __init__(self: Any) -> None:  # noqa: N807
        if isinstance(self, quant_nn_utils.QuantInputMixin):
            of_input = quant_nn_utils.pop_quant_desc_in_kwargs(self.__class__, input_only=True)
            self.init_quantizer(of_input)
        else:
            of_input, of_weight = quant_nn_utils.pop_quant_desc_in_kwargs(self.__class__)
            self.init_quantizer(of_input, of_weight)
        if isinstance(self._input_quantizer._calibrator, calib.HistogramCalibrator):
            self._input_quantizer._calibrator._torch_hist = True

    __init__(quant_instance)
    return quant_instance


def copied_dict(nn_instance: nn.Module, quant_module: Any) -> nn.Module:
    quant_instance = quant_module.__new__(quant_module)
    quant_instance.__dict__.update(vars(nn_instance))

    def __init__(self: Any) -> None:  # noqa: N807
        input_only = isinstance(self, quant_nn_utils.QuantInputMixin)
        found: Any = quant_nn_utils.pop_quant_desc_in_kwargs(quant_module, input_only)
        self.init_quantizer(*([found] if input_only else found))

    __init__(quant_instance)
    return quant_instance


def replace_to_quantization_module(
    model: nn.Module,
    ignore_policy: Callable[[str], bool] = lambda _: False,
    transfer: Callable[[nn.Module, Any], nn.Module] = transfer_torch_to_quantization,
) -> None:
    module_dict = {
        id(getattr(entry.orig_mod, entry.mod_name)): entry.replace_mod
        for entry in quant_modules._DEFAULT_QUANT_MAP
    }

    def recursive(module: nn.Module, prefix: str = "") -> None:
        for name in module._modules:
            submodule = module._modules[name]
            assert submodule is not None
            path = name if prefix == "" else prefix + "." + name
            recursive(submodule, path)
            if id(type(submodule)) in module_dict and not ignore_policy(path):
                module._modules[name] = transfer(submodule, module_dict[id(type(submodule))])

    recursive(model)


@pytest.mark.parametrize("transfer", [transfer_torch_to_quantization, copied_dict])
def test_a_float_model_is_turned_into_a_quantized_one_by_hand(
    transfer: Callable[[nn.Module, Any], nn.Module],
) -> None:
    model = nn.ModuleDict({"net": float_net()})
    weights = dict(model.named_parameters())
    replace_to_quantization_module(model, lambda path: path == "net.5", transfer)
    net = model["net"]
    kinds = ["QuantConv2d", "ReLU", "QuantConvTranspose2d", "QuantAvgPool2d", "Flatten", "Linear"]
    assert [type(each).__name__ for each in net] == kinds
    assert all(each is weights[name] for name, each in model.named_parameters())
    x = images()
    calibrated(net, x)
    floating = float_net()
    torch.testing.assert_close(net(x), floating(x), rtol=0.1, atol=0.01)
    for quantizer in quantizers_of(net):
        quantizer._disabled = True
    assert torch.equal(net(x), floating(x))
    assert type(copy.deepcopy(net)(x)) is Tensor


def test_a_histogram_set_as_default_and_computed_by_mse(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (quant_nn.QuantConv2d, quant_nn.QuantLinear):
        monkeypatch.setattr(kind, "default_quant_desc_input", kind.default_quant_desc_input)
        kind.set_default_quant_desc_input(QuantDescriptor(calib_method="histogram"))
    model = float_net()
    replace_to_quantization_module(model, lambda path: path not in ("0", "5"))
    x = images()
    for quantizer in quantizers_of(model):
        quantizer.disable_quant()
        quantizer.enable_calib()
    model(x)
    for module in quantizers_of(model):
        if module._calibrator is not None:
            if isinstance(module._calibrator, calib.MaxCalibrator):
                module.load_calib_amax(strict=False)
            else:
                module.load_calib_amax(strict=False, method="mse")
            module._amax = module._amax.to("cpu")
        module.enable_quant()
        module.disable_calib()
    amax = model[0]._input_quantizer.amax
    assert 0.5 * x.abs().max() < amax <= x.abs().max()
    assert set(model.state_dict()) > {"0._input_quantizer._amax", "5._weight_quantizer._amax"}


def test_loops_that_look_for_ranges_fuse_clip_and_recalibrate_them() -> None:
    model = float_net()
    replace_to_quantization_module(model)
    found = [each for each in model.modules() if hasattr(each, "_weight_quantizer")]
    assert not any(hasattr(each._weight_quantizer, "_amax") for each in found)
    calibrated(model, images())
    for module in found:
        weight, quantizer = module.weight, module._weight_quantizer
        assert hasattr(quantizer, "_amax")
        kept = {quantizer.axis}
        reduced = set(range(weight.dim())) - kept
        amax = reduce_amax(weight, axis=tuple(reduced), keepdims=True).detach()
        assert torch.equal(quantizer._amax, amax)
        quantizer._amax = amax * 2
        module._input_quantizer._amax.fill_(1.5)
        module._input_quantizer._amax.data.clamp_(max=1.25)
    linear = model[5]
    assert torch.equal(linear._weight_quantizer.amax, linear.weight.abs().amax(1, True) * 2)
    assert linear._input_quantizer.amax == 1.25
    linear._weight_quantizer._amax = torch.full((5,), 0.25)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    weight = numpy_fake_quant(linear.weight.detach().numpy(), 0.25)
    expected = numpy_fake_quant(x.numpy(), 1.25) @ weight.T + linear.bias.detach().numpy()
    np.testing.assert_allclose(linear(x).detach(), expected, rtol=1e-5, atol=1e-6)


class QuantMultiAdd(nn.Module):
    """A user's own sum, with one quantizer for all its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self._input_quantizer = quant_nn.TensorQuantizer(
            quant_nn.QuantLinear.default_quant_desc_input
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        total = self._input_quantizer(inputs[0])
        for each in inputs[1:]:
            total = total + self._input_quantizer(each)
        return total


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add = QuantMultiAdd()
        self.pool = quant_nn.QuantMaxPool2d(2)
        self.pool._input_quantizer = self.add._input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.add(x, x.flip(0) * 2, x.relu()))


def export(model: nn.Module, *inputs: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(model, inputs, buffer, opset_version=13, dynamo=False)
    return buffer.getvalue()


def scales(content: bytes) -> list[float]:
    graph = onnx.load_from_string(content).graph
    known = {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    found = [n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"]
    return [float(numpy_helper.to_array(known[name])) for name in found]


def test_one_quantizer_may_serve_several_inputs_and_layers() -> None:
    x = images()
    model = calibrated(Residual().eval(), x)
    assert model.add._input_quantizer.amax >= (x.flip(0) * 2).abs().max()
    content = export(model, x)
    assert len(scales(content)) == 4
    assert len(set(scales(content))) == 1
    np.testing.assert_allclose(run_onnx(content, x), model(x), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_exporting_the_old_way")
def test_the_old_flag_freezes_the_ranges_of_the_example(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    x = images()
    quantizer = quant_nn.TensorQuantizer()
    model = nn.Sequential(quantizer, nn.ReLU()).eval()
    content = export(model, x)
    assert caplog.text.count("was never calibrated: its range is the example's") >= 1
    assert not quantizer.calibrated
    (scale,) = scales(content)
    assert scale == np.float32(x.abs().max()) / np.float32(127)
    frozen = np.maximum(numpy_fake_quant((x * 3).numpy(), x.abs().max()), 0)
    np.testing.assert_allclose(run_onnx(content, x * 3), frozen, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(x * 3), model(x) * 3)


@pytest.mark.usefixtures("_exporting_the_old_way")
def test_a_whole_model_that_was_never_calibrated_exports_by_the_old_flag() -> None:
    x = images()
    model = float_net()
    replace_to_quantization_module(model)
    with torch.no_grad():
        expected = model(x)
    np.testing.assert_allclose(run_onnx(export(model, x), x), expected, rtol=0, atol=1e-6)


def test_without_the_flag_such_a_model_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"Quantizer has not been calibrated\."):
        export(quant_nn.TensorQuantizer(), torch.ones(2))


def test_weights_without_a_range_of_their_own_export_with_the_one_they_have() -> None:
    x = torch.ones(1, 4)
    layer = quant_nn.QuantLinear(4, 3)
    layer._input_quantizer.amax = 1.0
    with quant_modules.enable_onnx_export(), torch.no_grad():
        np.testing.assert_allclose(run_onnx(export(layer, x), x), layer(x), rtol=0, atol=1e-6)
