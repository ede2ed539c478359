"""Every grid of a layer's input and weight against numpy, in whole layers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from qdq.nn import QuantAvgPool1d, QuantConv1d, QuantConvTranspose1d, QuantLinear, TensorQuantizer
from qdq.spec import QuantSpec

Array = NDArray[Any]

laws = settings(deadline=None, derandomize=True, database=None, max_examples=150)


@st.composite
def specs(draw: st.DrawFn, axis: int | None = None) -> QuantSpec:
    signed = draw(st.booleans())
    return QuantSpec(
        bits=draw(st.integers(2, 16)),
        signed=signed,
        symmetric=draw(st.booleans()),
        narrow=signed and draw(st.booleans()),
        keep_axis=draw(st.sampled_from([None, axis])),
    )


def values(seed: int, *shape: int) -> Tensor:
    """Normal values, the entries of the first axes of very different size, and not centred."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    for axis in range(min(2, len(shape))):
        size = torch.rand(shape[axis], generator=generator) * 2 + 0.1
        x = x * size.view([-1 if each == axis else 1 for each in range(len(shape))])
    return x + torch.randn((), generator=generator) * 0.3


def rounded(x: Tensor, amin: Array, amax: Array, spec: QuantSpec) -> Array:
    """Fake quantization from the definition; only the unit of a step is float32, as stored."""
    lowest = -(2 ** (spec.bits - 1)) if spec.signed else 0
    highest = lowest + 2**spec.bits - 1
    lowest += spec.narrow
    low, high = amin.astype(np.float64), amax.astype(np.float64)
    if spec.symmetric:
        largest = np.maximum(np.abs(low), np.abs(high)) if spec.signed else np.maximum(high, 0)
        scale, zero_point = largest / highest, np.zeros_like(largest)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = (high - low) / (highest - lowest)
        zero_point = np.rint(lowest - low / np.where(scale > 0, scale, 1))
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    if spec.keep_axis is not None and scale.ndim:
        shape = [-1 if axis == spec.keep_axis else 1 for axis in range(x.dim())]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    codes = np.rint(x.detach().numpy() / scale) + zero_point
    return (np.clip(codes, lowest, highest) - zero_point) * scale.astype(np.float64)


def ends(x: Tensor, spec: QuantSpec) -> tuple[Array, Array]:
    """Smallest and largest value, in all or per entry of the kept axis."""
    axes = tuple(axis for axis in range(x.dim()) if axis != spec.keep_axis)
    array = x.detach().numpy()
    return array.min(axis=axes), array.max(axis=axes)


def step(x: Array, spec: QuantSpec) -> Any:
    """More than one step of the widest grid of x."""
    return np.abs(x).max() * 2 / (2 ** (spec.bits - int(spec.signed)) - 1) + 1e-6


def assert_same_but_for_ties(got: Tensor, want: Array, spec: QuantSpec) -> None:
    """Equal to float rounding; a last bit of the scale may send a value across a tie."""
    apart = np.abs(got.detach().double().numpy() - want)
    same = apart <= 1e-5 * np.abs(want).max() + 1e-7
    assert same.mean() >= 0.95
    assert (apart <= step(want, spec)).all()


@given(spec=specs(axis=1), seed=st.integers(0, 999))
@laws
def test_a_quantizer_rounds_as_numpy_does_on_every_grid(spec: QuantSpec, seed: int) -> None:
    x = values(seed, 3, 4, 5)
    low, high = ends(x, spec)
    quantizer = TensorQuantizer(spec)
    quantizer.set_range(torch.from_numpy(np.asarray(low)), torch.from_numpy(np.asarray(high)))
    assert_same_but_for_ties(quantizer(x), rounded(x, low, high, spec), spec)
    fresh = TensorQuantizer(spec, dynamic=True)
    assert torch.equal(fresh(x), quantizer(x))


@given(spec=specs(axis=0), seed=st.integers(0, 999), bits=st.integers(2, 16))
@laws
def test_on_its_own_scale_every_code_is_exact(spec: QuantSpec, seed: int, bits: int) -> None:
    x = values(seed, 4, 6)
    quantizer = TensorQuantizer(spec, dynamic=True)
    grid = quantizer.grid(x)
    scale, point = grid.scale.numpy(), grid.zero_point.numpy()
    if spec.keep_axis is not None:
        scale, point = scale[:, None], point[:, None]
    codes = np.clip(np.rint(x.numpy() / scale) + point, spec.qmin, spec.qmax)
    np.testing.assert_array_equal(quantizer(x), (codes - point).astype(np.float32) * scale)
    assert spec.qmin <= point.min() <= point.max() <= spec.qmax
    assert len(np.unique(codes)) <= 2**spec.bits - spec.narrow


LAYERS: dict[str, tuple[Any, Any, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (QuantLinear, nn.Linear, (4, 6), (5, 4)),
    "conv": (QuantConv1d, nn.Conv1d, (4, 6, 3), (2, 4, 7)),
    "conv_transpose": (QuantConvTranspose1d, nn.ConvTranspose1d, (4, 6, 3), (2, 4, 7)),
}


@pytest.mark.parametrize("kind", LAYERS)
@given(of_input=specs(), of_weight=specs(axis=0), seed=st.integers(0, 999))
@laws
def test_a_layer_multiplies_what_numpy_rounds_on_every_pair_of_grids(
    kind: str, of_input: QuantSpec, of_weight: QuantSpec, seed: int
) -> None:
    quantized, plain, sizes, shape = LAYERS[kind]
    layer = quantized(*sizes, input_spec=of_input, weight_spec=of_weight)
    x = values(seed, *shape)
    layer.weight.data = values(seed + 1, *layer.weight.shape)
    low, high = ends(x, of_input)
    layer._input_quantizer.set_range(float(low), float(high))
    x_fq, weight_fq, bias = layer.quantized_operands(x)
    assert_same_but_for_ties(x_fq, rounded(x, low, high, of_input), of_input)
    wanted = rounded(layer.weight, *ends(layer.weight, of_weight), of_weight)
    assert_same_but_for_ties(weight_fq, wanted, of_weight)
    reference = plain(*sizes)
    reference.weight.data, reference.bias = weight_fq.detach(), bias
    assert torch.equal(layer(x), reference(x_fq))


@given(spec=specs(), seed=st.integers(0, 999))
@laws
def test_a_pool_averages_what_numpy_rounds_on_every_grid(spec: QuantSpec, seed: int) -> None:
    x = values(seed, 2, 3, 8)
    low, high = ends(x, spec)
    pool = QuantAvgPool1d(2, input_spec=spec)
    pool._input_quantizer.set_range(float(low), float(high))
    wanted = rounded(x, low, high, spec).reshape(2, 3, 4, 2).mean(axis=3)
    apart = np.abs(pool(x).double().numpy() - wanted)
    assert (apart <= step(rounded(x, low, high, spec), spec)).all()
    assert (apart <= 1e-5 * np.abs(x.numpy()).max()).mean() >= 0.9


def test_more_bits_never_lose_accuracy() -> None:
    x = values(0, 4, 500)
    errors = []
    for bits in range(2, 17):
        quantizer = TensorQuantizer(QuantSpec(bits=bits, keep_axis=0), dynamic=True)
        errors.append(float((quantizer(x) - x).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] / errors[-1] > 1e6
