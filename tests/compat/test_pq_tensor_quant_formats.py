"""The affine form and eight-bit floats: values to the last bit, gradients, refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.compat.pytorch_quantization import tensor_quant as pq

Floats = NDArray[Any]


def passed(function: Any, x: Tensor, *rest: Any) -> list[float]:
    x = x.clone().requires_grad_()
    found = function(x, *rest)
    values = found[0] if isinstance(found, tuple) else found
    weights = torch.arange(1.0, x.numel() + 1, dtype=x.dtype)
    (values * weights).sum().backward()
    assert x.grad is not None
    return (x.grad / weights).tolist()


def test_the_affine_form_reproduces_the_integers_of_its_range() -> None:
    x = torch.arange(-128.0, 128.0)
    assert torch.equal(pq.fake_affine_tensor_quant(x, x.min(), x.max()), x)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("ends", [(-0.3, 1.1), (0.5, 2.0), (-2.0, -0.5)])
def test_the_affine_form_is_gemmlowps(ends: tuple[float, float], bits: int) -> None:
    x = torch.linspace(-4, 4, 4001)
    low, high = np.float32(ends[0]), np.float32(ends[1])
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    step = (high - low) / np.float32(most - least)
    zero = np.rint(low / step) - np.float32(least)
    codes = np.clip(np.rint(x.numpy() / step) - zero, least, most).astype(np.float32)
    values = pq.fake_affine_tensor_quant(x, torch.tensor(low), torch.tensor(high), bits)
    np.testing.assert_array_equal(values.numpy(), (codes + zero) * step)
    assert len(np.unique(codes)) == 2**bits


def test_an_affine_range_of_no_width_gives_numbers() -> None:
    x = torch.tensor([-3.0, 0.2, 1.4])
    values = pq.fake_affine_tensor_quant(x, torch.tensor(0.0), torch.tensor(0.0))
    assert values.tolist() == [0, 0, 1]


def test_affine_gradients_pass_within_the_range_ends_included() -> None:
    x = torch.tensor([-0.6, -0.5, 0.0, 2.0, 2.1])
    low, high = torch.tensor(-0.5), torch.tensor(2.0)
    assert passed(pq.fake_affine_tensor_quant, x, low, high, 8) == [0, 1, 1, 1, 0]


def e4m3_numbers() -> Floats:
    """All non-negative ones: 7 subnormals, then 4 bits of exponent with a bias of 7; no 480."""
    subnormal = [mantissa / 8 * 2.0**-6 for mantissa in range(8)]
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    return np.array(subnormal + normal[:-1])


def numpy_e4m3(x: Floats) -> Floats:
    """The nearest number of the table, of two the one with the even place."""
    table = e4m3_numbers()
    above = np.searchsorted(table, np.abs(x)).clip(0, len(table) - 1)
    below = (above - 1).clip(0)
    to_below, to_above = np.abs(x) - table[below], table[above] - np.abs(x)
    down = (to_below < to_above) | ((to_below == to_above) & (below % 2 == 0))
    return np.sign(x) * table[np.where(down, below, above)]


def test_e4m3_is_the_nearest_of_its_numbers_and_saturates() -> None:
    table = e4m3_numbers()
    assert (len(table), table[-1]) == (127, 448)
    ties = (table[1:] + table[:-1]) / 2
    x = np.concatenate([table, ties, [449.0, 465.0, 1e9, np.inf], np.geomspace(1e-4, 500, 999)])
    x = np.concatenate([x, -x]).astype(np.float32)
    found = pq.scaled_e4m3(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), numpy_e4m3(x.astype(np.float64)))


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (4, 1, 1), (1, 5, 1)])
def test_an_amax_goes_onto_448(shape: tuple[int, ...]) -> None:
    x = (
        torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
        .transpose(1, 2)
        .contiguous()
        .transpose(1, 2)
    )
    amax = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    scale = np.float32(448) / amax.numpy()
    expected = numpy_e4m3((x.numpy() * scale).astype(np.float64)).astype(np.float32) / scale
    np.testing.assert_array_equal(pq.scaled_e4m3(x, amax).numpy(), expected)
    assert pq.scaled_e4m3(x.half(), amax).dtype == torch.float16


def test_e4m3_of_nothing_is_zero_and_of_nan_nan() -> None:
    x = torch.tensor([2.0**-25, -(2.0**-25), 0.0])
    assert pq.scaled_e4m3(x, torch.tensor(2.0**-25)).abs().tolist() == [0, 0, 0]
    assert pq.scaled_e4m3(torch.tensor([0.0, 3.0, -1e9]), torch.tensor(0.0)).abs().sum() == 0
    assert bool(pq.scaled_e4m3(torch.tensor(float("nan"))).isnan())


def test_e4m3_gradients_pass_up_to_amax_or_448() -> None:
    x = torch.tensor([-449.0, -448.0, 3.0, 3.1])
    assert passed(pq.scaled_e4m3, x) == [0, 1, 1, 1]
    assert passed(pq.scaled_e4m3, x, torch.tensor(3.0)) == [0, 0, 1, 0]


def test_other_eight_bit_floats_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"E=5 and M=2: .* only E=4, M=3 is known"):
        pq.scaled_e4m3(torch.ones(1), None, 5, 2)
