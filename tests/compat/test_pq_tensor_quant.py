"""The functions against numpy: values to the last bit, gradients, refusals."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qdq.compat.pytorch_quantization import tensor_quant as pq

Floats = NDArray[Any]
GRIDS = [
    (bits, unsigned, narrow)
    for bits, unsigned, narrow in itertools.product(
        (3, 4, 5, 7, 8, 11), (False, True), (False, True)
    )
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numpy_quantize(
    x: Floats, amax: Floats, bits: int = 8, unsigned: bool = False, narrow: bool = True
) -> tuple[Floats, Floats]:
    """(codes, scale), one rounding per operation, in the type of x."""
    bound = x.dtype.type(2 ** (bits - 1 + unsigned) - 1)
    lowest = 0 if unsigned else -bound if narrow else -bound - 1
    dead = amax <= 2.0**-24
    scale = np.where(dead, x.dtype.type(1), bound / np.where(dead, x.dtype.type(1), amax))
    codes = np.where(dead, 0, np.clip(np.rint(x * scale), lowest, bound))
    return codes.astype(x.dtype), scale.astype(x.dtype)


def numpy_fake(x: Floats, amax: Floats, *grid: Any) -> Floats:
    codes, scale = numpy_quantize(x, amax, *grid)
    return codes / scale


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_values_and_codes_are_numpys_to_the_last_bit(grid: tuple[int, bool, bool]) -> None:
    x = torch.randn(3, 4, 5, generator=rng()) * 2
    if grid[1]:
        x = x.abs()
    for amax in (torch.tensor(1.7), torch.tensor([0.8, 0.9, 0.0, 1e-26]).view(1, 4, 1)):
        codes, scale = pq.tensor_quant(x, amax, *grid)
        expected_codes, expected_scale = numpy_quantize(x.numpy(), amax.numpy(), *grid)
        np.testing.assert_array_equal(codes.numpy(), expected_codes)
        np.testing.assert_array_equal(scale.numpy(), expected_scale)
        values = pq.fake_tensor_quant(x, amax, *grid)
        np.testing.assert_array_equal(values.numpy(), expected_codes / expected_scale)
        assert torch.equal(pq.legacy_fake_tensor_quant(x, amax, *grid), values)


def test_the_scale_is_a_division_not_a_product_with_a_reciprocal() -> None:
    amax = torch.rand(4096, generator=rng()) + 0.1
    _, scale = pq.tensor_quant(torch.ones(4096), amax)
    np.testing.assert_array_equal(scale.numpy(), np.float32(127) / amax.numpy())
    assert not torch.equal(scale, 127.0 * amax.reciprocal())


def test_the_defaults_are_eight_signed_bits_in_narrow_range() -> None:
    x = torch.tensor([-9.0, -1.0, 0.5, 9.0])
    codes, _ = pq.tensor_quant(x, torch.tensor(1.0))
    assert codes.tolist() == [-127, -127, 64, 127]
    assert pq.tensor_quant(x, torch.tensor(1.0), 8, False, False)[0][0] == -128


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_narrow_types_are_computed_in_fp32_and_float64_in_itself(dtype: torch.dtype) -> None:
    x = torch.randn(64, generator=rng(), dtype=torch.float64).to(dtype)
    amax = x.abs().max().view(1)
    wide = np.float64 if dtype == torch.float64 else np.float32
    exact = numpy_fake(
        x.double().numpy().astype(wide), amax.double().numpy().astype(wide), 8, False, True
    )
    values = pq.fake_tensor_quant(x, amax)
    assert values.dtype == dtype
    assert torch.equal(values, torch.from_numpy(exact).to(dtype))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    amax=st.floats(2.0**-20, 1e6, width=32),
    bits=st.integers(2, 12),
    narrow=st.booleans(),
)
def test_nothing_inside_the_range_moves_by_more_than_half_a_step(
    values: list[float], amax: float, bits: int, narrow: bool
) -> None:
    x = torch.tensor(values)
    moved = pq.fake_tensor_quant(x, torch.tensor(amax), bits, False, narrow)
    step = amax / (2 ** (bits - 1) - 1)
    inside = x.abs() <= amax
    assert bool(((moved - x).abs()[inside] <= step / 2 * (1 + 1e-3)).all())
    assert bool((moved <= amax * (1 + 1e-6)).all())
    np.testing.assert_array_equal(
        moved.numpy(), numpy_fake(x.numpy(), np.float32(amax), bits, False, narrow)
    )


@pytest.mark.parametrize("amax", [0.0, 1e-26, 2.0**-24])
def test_a_tiny_range_gives_zeros_whatever_comes(amax: float) -> None:
    x = torch.tensor([0.0, 1e-9, -3.0, float("inf")])
    codes, scale = pq.tensor_quant(x, torch.tensor(amax))
    assert codes.abs().tolist() == [0, 0, 0, 0]
    assert scale.item() == 1
    assert pq.fake_tensor_quant(x, torch.tensor(amax)).abs().tolist() == [0, 0, 0, 0]


def test_nan_stays_nan_and_infinity_becomes_the_largest_code() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")])
    for amax in (0.0, 2.0):
        assert pq.fake_tensor_quant(x, torch.tensor(amax)).isnan().tolist() == [True, False, False]
    assert pq.fake_tensor_quant(x, torch.tensor(2.0))[1:].tolist() == [2, -2]


def test_a_strided_input_keeps_its_values() -> None:
    x = torch.randn(3, 4, 5, 6, generator=rng())[:, 2, :, 3]
    assert not x.is_contiguous()
    expected = numpy_fake(x.numpy(), np.float32(0.7))
    np.testing.assert_array_equal(pq.fake_tensor_quant(x, torch.tensor(0.7)).numpy(), expected)


def test_the_input_is_neither_written_into_nor_shared() -> None:
    x = torch.randn(8, generator=rng())
    before = x.clone()
    for result in (
        pq.fake_tensor_quant(x, torch.tensor(1.0)),
        pq.tensor_quant(x, torch.tensor(1.0))[0],
        pq.fake_affine_tensor_quant(x, torch.tensor(-1.0), torch.tensor(1.0)),
        pq.scaled_e4m3(x),
    ):
        result.fill_(7)
        assert torch.equal(x, before)


# ---- refusals


def test_a_negative_amax_is_a_value_error_that_says_what_to_pass() -> None:
    x, amax = torch.ones(2), torch.tensor([1.0, -1.0])
    for function in (pq.tensor_quant, pq.fake_tensor_quant, pq.legacy_fake_tensor_quant):
        with pytest.raises(ValueError, match=r"^Negative values in amax.*x\.abs\(\)\.max\(\)$"):
            function(x, amax)
        with pytest.raises(ValueError, match="Negative values in amax"):
            function(-x, amax, 8, True)


def test_a_negative_input_has_no_unsigned_code() -> None:
    x, amax = torch.tensor([1.0, -1.0]), torch.tensor(1.0)
    for function in (pq.tensor_quant, pq.fake_tensor_quant, pq.legacy_fake_tensor_quant):
        message = r"^Negative values encountered in unsigned quantization\. Pass unsigned=False"
        with pytest.raises(TypeError, match=message):
            function(x, amax, 8, True)


def test_codes_in_fp16_need_a_scale_that_fp16_holds_and_values_do_not() -> None:
    x, amax = torch.randn(32, generator=rng()).half(), torch.tensor(1e-4).half()
    with pytest.raises(ValueError, match=r"^scale is too large for FP16 with amax=0\.0001"):
        pq.tensor_quant(x, amax)
    assert bool(pq.fake_tensor_quant(x, amax).isfinite().all())
    assert pq.tensor_quant(x.bfloat16(), amax.bfloat16())[1].dtype == torch.bfloat16


# ---- gradients


def passed(function: Any, x: Tensor, *rest: Any) -> list[float]:
    x = x.clone().requires_grad_()
    found = function(x, *rest)
    values = found[0] if isinstance(found, tuple) else found
    weights = torch.arange(1.0, x.numel() + 1, dtype=x.dtype)
    (values * weights).sum().backward()
    assert x.grad is not None
    return (x.grad / weights).tolist()


@pytest.mark.parametrize(
    "function", [pq.tensor_quant, pq.fake_tensor_quant, pq.legacy_fake_tensor_quant]
)
def test_gradients_pass_up_to_amax_itself_and_not_beyond(function: Any) -> None:
    beyond = float(np.nextafter(np.float32(0.7), np.float32(1)))
    x = torch.tensor([-beyond, -0.7, 0.0, 0.7, beyond, float("nan")])
    assert passed(function, x, torch.tensor(0.7)) == [0, 1, 1, 1, 0, 0]
    assert passed(function, x.abs(), torch.tensor(0.7), 8, True) == [0, 1, 1, 1, 0, 0]


def test_the_range_gets_no_gradient() -> None:
    x = torch.randn(4, generator=rng(), requires_grad=True)
    amax = torch.tensor(1.0, requires_grad=True)
    (pq.fake_tensor_quant(x, amax).sum() + pq.tensor_quant(x, amax)[0].sum()).backward()
    assert x.grad is not None
    assert amax.grad is None
    assert not pq.tensor_quant(x, amax)[1].requires_grad


def test_fp16_is_compared_with_the_range_in_fp32() -> None:
    x = torch.tensor([1.0, 1.0009765625], dtype=torch.float16)
    assert passed(pq.fake_tensor_quant, x, torch.tensor(1.0006)) == [1, 0]


def test_gradients_have_gradients_of_their_own() -> None:
    x = torch.tensor([0.3, 5.0], requires_grad=True)
    y = pq.fake_tensor_quant(x, torch.tensor(1.0))
    (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [2, 0]
