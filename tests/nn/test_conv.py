"""Quantized convolutions of every rank against sums written out in numpy."""

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import CalibrationError
from qdq.nn import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantLinear,
)
from qdq.nn.twins import TWINS
from qdq.numerics.affine import fake_quantize
from qdq.spec import QuantSpec

Doubles = NDArray[np.float64]

AMAX = 1.7
AFFINE = QuantSpec(signed=False, symmetric=False)
CONVS = {1: QuantConv1d, 2: QuantConv2d, 3: QuantConv3d}
TRANSPOSED = {1: QuantConvTranspose1d, 2: QuantConvTranspose2d, 3: QuantConvTranspose3d}
FLOATS = {
    QuantConv1d: nn.Conv1d,
    QuantConv2d: nn.Conv2d,
    QuantConv3d: nn.Conv3d,
    QuantConvTranspose1d: nn.ConvTranspose1d,
    QuantConvTranspose2d: nn.ConvTranspose2d,
    QuantConvTranspose3d: nn.ConvTranspose3d,
    QuantLinear: nn.Linear,
}
LAYERS = list(FLOATS)
IN_NUMPY = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def built(layer_class: Any, **options: Any) -> Any:
    """A layer of 4 channels to 6, its output channels of very different size."""
    torch.manual_seed(0)
    sizes = (4, 6) if layer_class in (QuantLinear, nn.Linear) else (4, 6, 3)
    layer = layer_class(*sizes, **options)
    axis = getattr(layer, "channel_axis", 0)
    shape = [1] * layer.weight.dim()
    shape[axis] = -1
    layer.weight.data *= torch.linspace(0.2, 3.0, layer.weight.shape[axis]).view(shape)
    if hasattr(layer, "_input_quantizer"):
        layer._input_quantizer.set_range(None, AMAX)
    return layer


def data(layer_class: Any, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    name = layer_class.__name__
    sides = (5, 4, 6)[: int(name[-2])] if name[-1] == "d" else ()
    return 1.5 * torch.randn(batch, 4, *sides, generator=generator)


def steps(x: Tensor, axis: int | None = None) -> NDArray[np.float32]:
    """Scales of int8 codes, in the shape of x with one entry along every axis but `axis`."""
    size = np.abs(x.detach().float().numpy())
    others = tuple(each for each in range(size.ndim) if each != axis)
    return size.max(axis=others, keepdims=True) / np.float32(127)


def rounded(x: Tensor, scale: Any) -> NDArray[np.float32]:
    values = x.detach().float().numpy()
    return np.clip(np.rint(values / scale), -128, 127).astype(np.float32) * scale


def operands(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x_fq = rounded(x, np.float32(AMAX) / np.float32(127))
    weight_fq = rounded(layer.weight, steps(layer.weight, layer.channel_axis))
    return torch.from_numpy(x_fq), torch.from_numpy(weight_fq)


def summed(x: Doubles, weight: Doubles, stride: int, dilation: int, groups: int) -> Doubles:
    """Convolution of a padded x: one shifted window per entry of the kernel."""
    kernel, outs, ins = weight.shape[2:], len(weight) // groups, weight.shape[1]
    sides = [
        (side - dilation * (size - 1) - 1) // stride + 1
        for side, size in zip(x.shape[2:], kernel, strict=True)
    ]
    result = np.zeros((len(x), len(weight), *sides))
    for group, at in itertools.product(range(groups), np.ndindex(*kernel)):
        window = tuple(
            slice(dilation * shift, dilation * shift + stride * (side - 1) + 1, stride)
            for shift, side in zip(at, sides, strict=True)
        )
        mine = slice(group * outs, (group + 1) * outs)
        seen = x[(slice(None), slice(group * ins, (group + 1) * ins), *window)]
        result[:, mine] += np.einsum("nc...,oc->no...", seen, weight[(mine, slice(None), *at)])
    return result


def scattered(
    x: Doubles,
    weight: Doubles,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Doubles:
    """Transposed convolution: every x spread over the outputs that its kernel covers."""
    kernel, ins, outs = weight.shape[2:], len(weight) // groups, weight.shape[1]
    spans = [
        (side - 1) * stride + dilation * (size - 1) + 1 + output_padding
        for side, size in zip(x.shape[2:], kernel, strict=True)
    ]
    result = np.zeros((len(x), outs * groups, *spans))
    for group, at in itertools.product(range(groups), np.ndindex(*kernel)):
        window = tuple(
            slice(dilation * shift, dilation * shift + stride * (side - 1) + 1, stride)
            for shift, side in zip(at, x.shape[2:], strict=True)
        )
        mine = slice(group * ins, (group + 1) * ins)
        spread = np.einsum("nc...,co->no...", x[:, mine], weight[(mine, slice(None), *at)])
        result[(slice(None), slice(group * outs, (group + 1) * outs), *window)] += spread
    kept = tuple(slice(padding, span - padding) for span in spans)
    return result[(slice(None), slice(None), *kept)]


def with_bias(sums: Doubles, layer: Any) -> Doubles:
    if layer.bias is None:
        return sums
    return sums + layer.bias.detach().double().numpy().reshape(1, -1, *[1] * (sums.ndim - 2))


# ---- values


@pytest.mark.parametrize("mode", IN_NUMPY)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2},
        {"padding": 1, "groups": 2},
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_convolution_is_the_sum_over_its_kernel_of_rounded_operands(
    rank: int, options: dict[str, Any], mode: str
) -> None:
    layer = built(CONVS[rank], padding_mode=mode, **options)
    x = data(CONVS[rank])
    x_fq, weight_fq = (each.double().numpy() for each in operands(layer, x))
    dilation, padding = options.get("dilation", 1), options.get("padding", 0)
    width = {"same": dilation, "valid": 0}.get(padding, padding)  # of a kernel of 3
    sides = [(0, 0), (0, 0), *[(width, width)] * rank]
    padded = np.pad(x_fq, sides, mode=IN_NUMPY[mode])  # type: ignore[call-overload]
    sums = summed(padded, weight_fq, options.get("stride", 1), dilation, options.get("groups", 1))
    np.testing.assert_allclose(layer(x).detach(), with_bias(sums, layer), atol=1e-4)


@pytest.mark.parametrize("mode", IN_NUMPY)
@pytest.mark.parametrize("padding", [0, 1, 2, "same", "valid"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_padding_is_exactly_the_float_layers_own(
    rank: int, padding: int | str, mode: str
) -> None:
    layer = built(CONVS[rank], padding=padding, padding_mode=mode)
    plain = built(FLOATS[CONVS[rank]], padding=padding, padding_mode=mode)
    x = data(CONVS[rank])
    x_fq, plain.weight.data = operands(layer, x)
    plain.bias = layer.bias
    assert torch.equal(layer(x), plain(x_fq))
    assert torch.equal(layer(x[0]), plain(x_fq[0]))
    width = {"same": 1, "valid": 0}.get(padding, padding)  # type: ignore[call-overload]
    padded = F.pad(x_fq, [width] * (2 * rank), mode="constant" if mode == "zeros" else mode)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    expected = convolve(padded, plain.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    if mode != "zeros":
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("spec", [None, AFFINE], ids=str)
@pytest.mark.parametrize("mode", IN_NUMPY)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rounding_what_was_padded_is_padding_what_was_rounded(
    rank: int, mode: str, spec: QuantSpec | None
) -> None:
    layer = built(CONVS[rank], input_spec=spec, padding=2, padding_mode=mode)
    layer._input_quantizer.set_range(-0.4, AMAX)
    x, grid = data(CONVS[rank]), layer._input_quantizer.grid()

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, [2] * (2 * rank), mode="constant" if mode == "zeros" else mode)

    assert torch.equal(fake_quantize(padded(x), grid), padded(fake_quantize(x, grid)))
    first = layer(x)
    layer.padding, layer._reversed_padding_repeated_twice = (0,) * rank, [0] * (2 * rank)
    torch.testing.assert_close(first, layer(padded(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"dilation": 2, "padding": 1},
        {"groups": 2},
        {"groups": 2, "stride": 2, "output_padding": 1},
        {"dilation": 3, "output_padding": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_transposed_convolution_spreads_rounded_values_over_its_kernel(
    rank: int, bias: bool, options: dict[str, int]
) -> None:
    layer, x = built(TRANSPOSED[rank], bias=bias, **options), data(TRANSPOSED[rank])
    x_fq, weight_fq = operands(layer, x)
    sums = scattered(x_fq.double().numpy(), weight_fq.double().numpy(), **options)
    np.testing.assert_allclose(layer(x).detach(), with_bias(sums, layer), atol=1e-4)
    plain = built(FLOATS[TRANSPOSED[rank]], bias=bias, **options)
    plain.weight.data, plain.bias = weight_fq, layer.bias
    assert torch.equal(layer(x), plain(x_fq))
    assert torch.equal(layer(x[0]), plain(x_fq[0]))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_size_of_a_transposed_result_may_be_asked_for(rank: int) -> None:
    layer, x = built(TRANSPOSED[rank], stride=2), data(TRANSPOSED[rank])
    plain = built(FLOATS[TRANSPOSED[rank]], stride=2)
    x_fq, plain.weight.data = operands(layer, x)
    plain.bias = layer.bias
    smallest = list(plain(x_fq).shape[2:])
    for size in (smallest, [side + 1 for side in smallest]):
        assert torch.equal(layer(x, size), plain(x_fq, size))
        assert torch.equal(layer(x, output_size=[2, 6, *size]), plain(x_fq, output_size=size))
    with pytest.raises(ValueError, match="requested an output size of") as wanted:
        plain(x_fq, [99] * rank)
    with pytest.raises(ValueError, match="requested an output size of") as caught:
        layer(x, [99] * rank)
    assert str(caught.value) == str(wanted.value)


# ---- scales of a transposed convolution


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_transposed_weight_has_a_scale_per_entry_of_axis_1_shared_by_the_groups(
    rank: int, groups: int
) -> None:
    layer = built(TRANSPOSED[rank], groups=groups)
    grid = layer._weight_quantizer.grid(layer.weight)
    assert (layer.weight.shape[1], grid.spec.keep_axis) == (6 // groups, 1)
    np.testing.assert_array_equal(grid.scale, steps(layer.weight, 1).ravel())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layer_class", [*CONVS.values(), *TRANSPOSED.values()])
def test_an_int32_bias_equals_whole_number_arithmetic_in_every_group(
    layer_class: Any, groups: int
) -> None:
    layer, x = built(layer_class, groups=groups), data(layer_class)
    layer.integer_bias = True
    assert layer.bias_is_integer
    s_x, s_w = np.float32(AMAX) / np.float32(127), steps(layer.weight, layer.channel_axis)
    codes_x = np.rint(rounded(x, s_x) / s_x).astype(np.float64)
    codes_w = np.rint(rounded(layer.weight, s_w) / s_w).astype(np.float64)
    if layer.channel_axis:
        sums = scattered(codes_x, codes_w, groups=groups)
        step = np.tile((s_x * s_w).ravel(), groups)
    else:
        sums, step = summed(codes_x, codes_w, 1, 1, groups), (s_x * s_w).ravel()
    np.testing.assert_array_equal(layer.bias_step(), step)
    shape = (1, -1, *[1] * (x.dim() - 2))
    bias = np.rint(layer.bias.detach().numpy() / step)
    expected = (sums + bias.reshape(shape)) * step.astype(np.float64).reshape(shape)
    apart = np.abs(layer(x).detach().numpy() - expected) / step.reshape(shape)
    assert apart.max() < 0.25  # float sums of a million steps


def test_one_scale_for_the_whole_weight_makes_one_step_for_the_bias() -> None:
    layer = built(QuantConvTranspose2d, groups=2, weight_spec=QuantSpec())
    layer.integer_bias = True
    assert layer.bias_is_integer
    assert layer.bias_step().shape == ()
    assert layer(data(QuantConvTranspose2d)).shape[1] == 6


@pytest.mark.parametrize(("layer_class", "axis"), [(QuantConv2d, 1), (QuantConvTranspose2d, 0)])
def test_scales_along_another_axis_than_the_output_channels_leave_the_bias_float(
    layer_class: Any, axis: int
) -> None:
    layer = built(layer_class, weight_spec=QuantSpec(keep_axis=axis))
    x = data(layer_class)
    before = layer(x)
    layer.integer_bias = True
    assert not layer.bias_is_integer
    assert torch.equal(layer(x), before)


# ---- construction


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_quantized_layer_is_its_float_class_and_the_twin_of_it(layer_class: Any) -> None:
    layer, plain = built(layer_class), FLOATS[layer_class]
    assert isinstance(layer, plain)
    assert TWINS[plain] is layer_class
    assert layer_class.kind in ("conv", "conv_transpose", "linear")
    assert layer_class.channel_axis == (layer_class.kind == "conv_transpose")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer_class", LAYERS)
def test_another_float_type_is_rounded_in_float32_and_kept(
    layer_class: Any, dtype: torch.dtype
) -> None:
    layer, x = built(layer_class, dtype=dtype), data(layer_class).to(dtype)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    plain = built(FLOATS[layer_class], dtype=dtype)
    x_fq, weight_fq = operands(layer, x)
    plain.weight.data, plain.bias = weight_fq.to(dtype), layer.bias
    result = layer(x)
    assert result.dtype == dtype
    assert torch.equal(result, plain(x_fq.to(dtype)))
    layer.integer_bias = True
    assert layer(x).dtype == dtype


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_layer_is_built_where_device_says(layer_class: Any) -> None:
    layer = built(layer_class, device="meta", dtype=torch.float16)
    assert (layer.weight.device.type, layer.weight.dtype) == ("meta", torch.float16)
    result = layer(data(layer_class).to("meta", torch.float16))
    plain = built(layer_class)(data(layer_class))
    assert (result.device.type, result.shape) == ("meta", plain.shape)


@pytest.mark.parametrize("layer_class", LAYERS)
def test_a_float_layer_that_changes_its_class_computes_as_one_that_was_built(
    layer_class: Any,
) -> None:
    expected, layer = built(layer_class), built(FLOATS[layer_class])
    layer.weight.data.copy_(expected.weight.data)
    weight, calls = layer.weight, []
    layer.register_forward_hook(lambda *_: calls.append(1))
    layer.__class__ = layer_class
    layer.add_quantizers()
    layer._input_quantizer.set_range(None, AMAX)
    assert torch.equal(layer(data(layer_class)), expected(data(layer_class)))
    assert layer.weight is weight
    assert calls == [1]


@pytest.mark.parametrize("layer_class", LAYERS)
def test_states_go_both_ways_between_float_and_quantized_layer(layer_class: Any) -> None:
    plain, layer = built(FLOATS[layer_class]), built(layer_class)
    ranged = layer.state_dict()
    assert set(ranged) == {*plain.state_dict(), "_input_quantizer._amax"}
    fresh = layer_class(*((4, 6) if layer_class is QuantLinear else (4, 6, 3)))
    fresh.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(fresh.state_dict(), strict=True)
    fresh.load_state_dict(ranged, strict=True)
    assert torch.equal(fresh(data(layer_class)), layer(data(layer_class)))


@pytest.mark.parametrize("layer_class", LAYERS)
def test_copies_and_pickles_compute_the_same(layer_class: Any) -> None:
    layer, x = built(layer_class), data(layer_class)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is layer_class
        assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("layer_class", LAYERS)
def test_gradients_reach_weight_bias_and_what_lies_inside_the_range(layer_class: Any) -> None:
    layer, x = built(layer_class), data(layer_class).requires_grad_()
    layer(x).square().sum().backward()
    x_fq, weight_fq = operands(layer, x)
    plain = built(FLOATS[layer_class])
    plain.weight.data, plain.bias.data = weight_fq, layer.bias.detach()
    plain(x_fq.requires_grad_()).square().sum().backward()
    assert x_fq.grad is not None
    assert bool((x.abs() > AMAX).any())
    torch.testing.assert_close(x.grad, x_fq.grad * (x.abs() <= AMAX))
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


# ---- texts


def test_a_printed_layer_shows_its_own_arguments_and_its_grids() -> None:
    layer = built(QuantConvTranspose2d, stride=2)
    assert repr(layer).splitlines() == [
        "QuantConvTranspose2d(",
        "  4, 6, kernel_size=(3, 3), stride=(2, 2)",
        "  (_input_quantizer): TensorQuantizer(int8 symmetric per-tensor, [-1.7, 1.7])",
        "  (_weight_quantizer): TensorQuantizer(int8 symmetric per-channel(1), dynamic)",
        "  (_output_quantizer): TensorQuantizer(int8 symmetric per-tensor, no range, off)",
        ")",
    ]
    first = repr(built(QuantConv3d, padding=1, padding_mode="circular")).splitlines()[1]
    assert first.startswith("  4, 6, kernel_size=(3, 3, 3)")
    assert first.endswith("padding_mode=circular")


@pytest.mark.parametrize("layer_class", LAYERS)
def test_without_a_range_the_site_is_named(layer_class: Any) -> None:
    layer = built(layer_class)
    layer._input_quantizer.set_range(None, None)
    layer._input_quantizer.site = "block.up.input"
    with pytest.raises(CalibrationError) as caught:
        layer(data(layer_class))
    assert str(caught.value).startswith(
        "this quantizer has no range yet\n  at:  block.up.input\n  fix: run qdq.calibrate("
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_what_torch_refuses_stays_refused_in_its_words(rank: int) -> None:
    name = f"QuantConvTranspose{rank}d"
    with pytest.raises(ValueError, match=f'Only "zeros" padding mode is supported for {name}'):
        TRANSPOSED[rank](4, 6, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        CONVS[rank](4, 6, 3, padding_mode="mirror")
    with pytest.raises(TypeError, match="unexpected keyword argument 'spec'"):
        CONVS[rank](4, 6, 3, spec=QuantSpec())
