"""QuantConv2d and QuantLinear: float layers on operands rounded apart in numpy."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import CalibrationError
from qdq.nn import QuantConv2d, QuantLinear
from qdq.spec import QuantSpec

AMAX = 1.7
UINT8 = QuantSpec(signed=False, symmetric=False)
CONVS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"stride": 2, "padding": 1},
    {"padding": "same", "dilation": 2},
    {"groups": 2, "padding": 1},
    {"padding": 1, "padding_mode": "reflect"},
]


def conv(**options: Any) -> QuantConv2d:
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, 3, **options)
    layer._input_quantizer.set_range(None, AMAX)
    return layer


def linear(**options: Any) -> QuantLinear:
    torch.manual_seed(0)
    layer = QuantLinear(20, 6, **options)
    layer._input_quantizer.set_range(None, AMAX)
    return layer


def image() -> Tensor:
    return torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(1))


def rows() -> Tensor:
    return torch.randn(5, 20, generator=torch.Generator().manual_seed(1))


def codes_of(x: Tensor, scale: NDArray[np.float32]) -> NDArray[np.int64]:
    """int8 codes, zero point 0; one scale, or one per entry of axis 0."""
    spread = scale.reshape(-1, *[1] * (x.dim() - 1)) if scale.ndim else scale
    steps = np.rint(x.detach().float().numpy() / spread)
    return np.clip(steps, -128, 127).astype(np.int64)


def weight_scale(weight: Tensor) -> NDArray[np.float32]:
    rows = np.abs(weight.detach().float().numpy()).reshape(len(weight), -1)
    return (rows.max(axis=1) / np.float32(127)).astype(np.float32)


def input_scale() -> NDArray[np.float32]:
    return np.asarray(np.float32(AMAX) / np.float32(127))


def rounded_operands(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    s_x, s_w = input_scale(), weight_scale(layer.weight)
    spread = s_w.reshape(-1, *[1] * (layer.weight.dim() - 1))
    x_fq = codes_of(x, s_x).astype(np.float32) * s_x
    weight_fq = codes_of(layer.weight, s_w).astype(np.float32) * spread
    return torch.from_numpy(x_fq), torch.from_numpy(weight_fq)


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_a_convolution_computes_on_rounded_input_and_weight(options: dict[str, Any]) -> None:
    layer, x = conv(**options), image()
    plain = nn.Conv2d(4, 6, 3, **options)
    x_fq, weight_fq = rounded_operands(layer, x)
    plain.weight.data = weight_fq
    plain.bias = layer.bias
    torch.testing.assert_close(layer(x), plain(x_fq), rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(20,), (5, 20), (2, 3, 20)])
def test_a_linear_layer_computes_on_rounded_input_and_weight(
    shape: tuple[int, ...], bias: bool
) -> None:
    layer = linear(bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x_fq, weight_fq = rounded_operands(layer, x)
    torch.testing.assert_close(layer(x), F.linear(x_fq, weight_fq, layer.bias), rtol=0, atol=0)


def test_a_single_image_without_batch_is_taken_as_by_the_float_layer() -> None:
    layer, x = conv(), image()
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("build", [conv, linear])
def test_the_weight_keeps_a_scale_per_output_channel_without_any_data(build: Any) -> None:
    layer = build()
    grid = layer._weight_quantizer.grid(layer.weight)
    np.testing.assert_array_equal(grid.scale, weight_scale(layer.weight))
    assert (grid.spec.qmin, grid.spec.qmax, grid.spec.keep_axis) == (-127, 127, 0)


def test_specs_that_are_passed_are_kept() -> None:
    weight_spec = QuantSpec(bits=4)
    layer = QuantLinear(3, 2, input_spec=UINT8, weight_spec=weight_spec)
    assert layer._input_quantizer.spec is UINT8
    assert layer._output_quantizer.spec is UINT8
    assert layer._weight_quantizer.spec is weight_spec
    assert QuantConv2d(1, 1, 1, weight_spec=weight_spec)._weight_quantizer.spec is weight_spec


def test_the_float_keys_of_a_layer_do_not_change() -> None:
    assert list(conv().state_dict())[:2] == list(nn.Conv2d(4, 6, 3).state_dict())
    assert set(linear().state_dict()) == {"weight", "bias", "_input_quantizer._amax"}


def test_a_quantized_layer_is_its_float_class_with_its_arguments() -> None:
    layer = QuantConv2d(4, 6, 3, stride=2, padding=1, bias=False, dtype=torch.float64)
    assert isinstance(layer, nn.Conv2d)
    assert (layer.stride, layer.padding, layer.bias) == ((2, 2), (1, 1), None)
    assert layer.weight.dtype == torch.float64
    assert isinstance(QuantLinear(3, 2), nn.Linear)


@pytest.mark.parametrize(("build", "data"), [(conv, image), (linear, rows)])
def test_the_output_passes_unrounded_until_its_quantizer_is_switched_on(
    build: Any, data: Callable[[], Tensor]
) -> None:
    layer, x = build(), data()
    before = layer(x)
    layer._output_quantizer.active = True
    with pytest.raises(CalibrationError, match="no range yet"):
        layer(x)
    layer._output_quantizer.set_range(None, 0.9)
    scale = np.float32(0.9) / np.float32(127)
    steps = np.clip(np.rint(before.detach().numpy() / scale), -128, 127)
    np.testing.assert_array_equal(layer(x).detach(), steps * scale)


@pytest.mark.parametrize(("build", "data"), [(conv, image), (linear, rows)])
def test_while_the_weight_is_off_the_input_is_off_too(
    build: Any, data: Callable[[], Tensor]
) -> None:
    layer, x = build(), data()
    layer.integer_bias = True
    layer._weight_quantizer.enabled = False
    plain = nn.Conv2d(4, 6, 3) if build is conv else nn.Linear(20, 6)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    assert torch.equal(layer(x), plain(x))
    assert not layer.bias_is_integer


def test_with_the_input_off_only_the_weight_is_rounded() -> None:
    layer, x = linear(), rows()
    layer._input_quantizer.enabled = False
    _, weight_fq = rounded_operands(layer, x)
    assert torch.equal(layer(x), F.linear(x, weight_fq, layer.bias))


@pytest.mark.parametrize(("build", "data"), [(conv, image), (linear, rows)])
def test_an_observed_layer_computes_in_float(build: Any, data: Callable[[], Tensor]) -> None:
    layer, x = build(), data()
    seen: list[Tensor] = []
    for quantizer in (layer._input_quantizer, layer._output_quantizer):
        quantizer.observer = lambda _, tensor: seen.append(tensor)
    plain = nn.Conv2d(4, 6, 3) if build is conv else nn.Linear(20, 6)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    result = layer(x)
    assert torch.equal(result, plain(x))
    assert [id(tensor) for tensor in seen] == [id(x), id(result)]


# ---- int32 bias


def integer_linear(layer: Any, x: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(accumulators, step of each output) of `x @ weight.T + bias` in whole numbers."""
    s_x, s_w = input_scale(), weight_scale(layer.weight)
    step = (s_x * s_w).astype(np.float32)
    bias = np.rint(layer.bias.detach().numpy() / step).astype(np.int64)
    sums = codes_of(x, s_x) @ codes_of(layer.weight, s_w).T + bias
    return sums, step.astype(np.float64)


def test_a_simulated_int32_bias_equals_exact_integer_arithmetic_of_a_linear_layer() -> None:
    layer, x = linear(), rows()
    layer.integer_bias = True
    sums, step = integer_linear(layer, x)
    np.testing.assert_allclose(
        layer(x).detach().double(), sums * step, rtol=1e-6, atol=float(step.max()) * 1e-2
    )


def test_a_simulated_int32_bias_equals_exact_integer_arithmetic_of_a_convolution() -> None:
    layer, x = conv(padding=1), image()
    layer.integer_bias = True
    patches = F.unfold(F.pad(x, (1, 1, 1, 1)), 3).transpose(1, 2).reshape(-1, 36)
    flat = nn.Linear(36, 6)
    flat.weight.data, flat.bias.data = layer.weight.detach().view(6, 36), layer.bias.detach()
    sums, step = integer_linear(flat, patches)
    expected = (sums * step).reshape(3, 72, 6).transpose(0, 2, 1).reshape(3, 6, 9, 8)
    np.testing.assert_allclose(
        layer(x).detach().double(), expected, rtol=1e-6, atol=float(step.max()) * 1e-2
    )


def test_doubled_weights_in_the_right_place_make_the_integer_sum_exact_in_float() -> None:
    layer = QuantLinear(2, 1)
    layer._input_quantizer.set_range(None, 127.0)
    layer.weight.data = torch.tensor([[127.0, 2.0]])
    layer.bias.data = torch.tensor([0.6])
    x = torch.tensor([[3.0, 5.0]])
    assert layer(x).item() == pytest.approx(391.6)
    layer.integer_bias = True
    assert layer(x).item() == 392.0


def test_the_bias_is_float_where_there_is_nothing_integer_to_add_it_to() -> None:
    layer = linear()
    assert not layer.bias_is_integer
    layer.integer_bias = True
    assert layer.bias_is_integer
    layer._input_quantizer.active = False
    assert not layer.bias_is_integer
    without = linear(bias=False)
    without.integer_bias = True
    assert not without.bias_is_integer
    assert without(rows()).shape == (5, 6)


def test_the_bias_site_lies_beside_the_weight_site() -> None:
    layer = linear()
    layer._weight_quantizer.site = "head.fc.weight"
    assert layer.bias_site == "head.fc.bias"
    layer._weight_quantizer.site = "weight"
    assert layer.bias_site == "bias"


def test_the_bias_step_is_input_times_weight_scale() -> None:
    layer = conv()
    expected = input_scale() * weight_scale(layer.weight)
    np.testing.assert_array_equal(layer.bias_step(), expected)


# ---- training


@pytest.mark.parametrize(("build", "data"), [(conv, image), (linear, rows)])
@pytest.mark.parametrize("integer_bias", [False, True])
def test_gradients_reach_input_weight_and_bias(
    integer_bias: bool, build: Any, data: Callable[[], Tensor]
) -> None:
    layer, x = build(), data().requires_grad_()
    layer.integer_bias = integer_bias
    weight = layer.weight.detach().clone()
    layer(x).sum().backward()
    assert bool((x.grad != 0).any())
    assert bool((x.grad[x.abs() > AMAX] == 0).all())
    assert bool((x.abs() > AMAX).any())
    assert bool((layer.weight.grad != 0).all())
    outputs_per_channel = layer(x).numel() / 6
    torch.testing.assert_close(layer.bias.grad, torch.full((6,), outputs_per_channel))
    assert torch.equal(layer.weight.detach(), weight)


# ---- plain ONNX export


class Net(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = QuantConv2d(1, 4, 3, **options)
        self.fc = QuantLinear(4 * 6 * 6, 5, **options)
        self.conv._input_quantizer.set_range(-1.9, 2.1)
        self.fc._input_quantizer.set_range(0.0, 1.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


@pytest.mark.parametrize("options", [{}, {"input_spec": UINT8}, {"bias": False}], ids=str)
def test_plain_export_writes_pairs_whose_result_in_onnxruntime_is_that_of_torch(
    options: dict[str, Any],
) -> None:
    model = Net(**options).eval()
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    buffer = io.BytesIO()
    torch.onnx.export(model, (x,), buffer, dynamo=False, opset_version=13, input_names=["x"])
    written = onnx.load_from_string(buffer.getvalue())
    kinds = [node.op_type for node in written.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 4
    assert {node.domain for node in written.graph.node} == {""}
    assert [(each.domain, each.version) for each in written.opset_import] == [("", 13)]
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        buffer.getvalue(), settings, providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        expected = model(x).numpy()
    # A sum in another order may send a value across a tie: one step of fc's input, rarely.
    assert np.isclose(result, expected, rtol=1e-5, atol=1e-5).mean() > 0.95
    np.testing.assert_allclose(result, expected, atol=0.01)


def test_exporting_leaves_the_model_as_it_was() -> None:
    model = Net().eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    before = model(x)
    torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False, opset_version=13)
    assert torch.equal(model(x), before)
