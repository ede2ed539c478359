"""The functions of the CUDA extension equal the differentiable ones, bit for bit."""

import itertools

import pytest
import torch

from qdq.compat.pytorch_quantization import cuda_ext, tensor_quant

TYPES = [torch.float32, torch.float16, torch.bfloat16]
GRIDS = list(itertools.product((3, 4, 5, 7, 8, 11), (False, True), (False, True)))


def uniform(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_one_range_in_all(dtype: torch.dtype, grid: tuple[int, bool, bool]) -> None:
    x = uniform(1023, dtype=dtype) - (0 if grid[1] else 0.5)
    amax = x.abs().max()
    expected = tensor_quant.fake_tensor_quant(x, amax, *grid)
    bits, unsigned, narrow = grid
    found = cuda_ext.fake_tensor_quant(
        x, amax.view(1, 1), num_bits=bits, unsigned=unsigned, narrow_range=narrow
    )
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert cuda_ext.fake_tensor_quant_(x, amax, *grid) is None
    assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(4,), (1, 4, 1, 1), (2, 2)])
def test_a_range_per_entry_of_an_axis(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = uniform(3, 4, 5, 6, dtype=dtype)
    amax = torch.tensor([0.8, 0.9, 0.7, 0.6])
    for bits, unsigned, narrow in GRIDS:
        along = amax.view(1, 4, 1, 1)
        expected = tensor_quant.fake_tensor_quant(x, along, bits, unsigned, narrow)
        for axis in (1, -3):
            found = cuda_ext.fake_tensor_quant_with_axis(
                x,
                amax.view(shape),
                axis=axis,
                num_bits=bits,
                unsigned=unsigned,
                narrow_range=narrow,
            )
            assert torch.equal(found, expected)


def test_a_tiny_range_gives_exact_zeros() -> None:
    amax = torch.tensor([1.0, 1e-26, 1.0]).view(1, 3, 1)
    found = cuda_ext.fake_tensor_quant_with_axis(uniform(2, 3, 4), amax, axis=1)
    assert found[:, 1].abs().max() == 0
    assert bool((found[:, [0, 2]] > 0).any())


def test_eight_bit_floats() -> None:
    x = uniform(40) * 900
    assert torch.equal(cuda_ext.fake_e4m3fy(x), tensor_quant.scaled_e4m3(x))


def test_no_gradient_is_kept_and_a_parameter_may_be_overwritten() -> None:
    x = torch.nn.Parameter(uniform(5))
    assert not cuda_ext.fake_tensor_quant(x, torch.tensor(0.5)).requires_grad
    assert not cuda_ext.fake_e4m3fy(x).requires_grad
    cuda_ext.fake_tensor_quant_(x, torch.tensor(0.5))
    assert x.requires_grad
    assert x.max() == 0.5


def test_ranges_that_do_not_fit_are_refused() -> None:
    x = uniform(2, 3)
    with pytest.raises(
        ValueError, match=r"takes one amax, got the shape \(3,\): call fake_tensor_"
    ):
        cuda_ext.fake_tensor_quant(x, torch.ones(3))
    with pytest.raises(ValueError, match=r"axis 1 of inputs of shape \(2, 3\) needs 3 amax, got 2"):
        cuda_ext.fake_tensor_quant_with_axis(x, torch.ones(2), 1)
    with pytest.raises(ValueError, match="Negative values in amax"):
        cuda_ext.fake_tensor_quant_with_axis(x, -torch.ones(3), 1)
    with pytest.raises(TypeError, match="Negative values encountered in unsigned"):
        cuda_ext.fake_tensor_quant(-x, torch.tensor(1.0), unsigned=True)
