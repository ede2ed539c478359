"""Grids and codes in numpy are those of the tensors' arithmetic, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.errors import GraphError
from qdq.graph.quantizing.grids import (
    activation_grid,
    bias_grid,
    least_weight_scale,
    scale_and_zero_point,
    weight_grid,
)
from qdq.numerics import affine
from qdq.spec import QuantSpec

SPECS = [
    QuantSpec(),
    QuantSpec(narrow=True),
    QuantSpec(signed=False, symmetric=False),
    QuantSpec(symmetric=False),
    QuantSpec(signed=False),
    QuantSpec(bits=7, narrow=True),
]
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(deadline=None)
@given(a=finite, b=finite, spec=st.sampled_from(SPECS))
def test_a_range_becomes_the_same_scale_and_zero_point(a: float, b: float, spec: QuantSpec) -> None:
    low, high = sorted((a, b))
    grid = affine.qparams(torch.tensor(low), torch.tensor(high), spec)
    scale, zero_point = scale_and_zero_point(np.array(low), np.array(high), spec)
    assert np.float32(scale).tobytes() == grid.scale.numpy().tobytes()
    assert float(zero_point) == float(grid.zero_point)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e-42, 1e30])
def test_a_weight_has_the_same_codes(axis: int | None, factor: float) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((5, 6, 3)) * factor).astype(np.float32)
    weight[2] = 0
    spec = QuantSpec(narrow=True)
    grid = weight_grid("w", weight, axis, spec)
    tensor = torch.from_numpy(weight)
    wanted = affine.qparams(*affine.range_of(tensor, axis), replace(spec, keep_axis=axis))
    np.testing.assert_array_equal(grid.scale, wanted.scale.numpy())
    assert grid.codes is not None
    assert grid.codes.dtype == np.int8
    np.testing.assert_array_equal(grid.codes, affine.quantize(tensor, wanted).numpy())


def test_a_bias_has_the_same_codes_and_widens_a_dead_weight() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((4, 9)).astype(np.float32), np.float32([1, -2, 3, 1e8])
    weight[3] = 1e-8
    of_input = np.array(np.float32(0.02))
    least = least_weight_scale(bias, of_input, 4)
    step = torch.tensor(0.02)
    np.testing.assert_array_equal(
        least, affine.least_weight_scale(torch.from_numpy(bias), step).numpy()
    )
    grid = weight_grid("w", weight, 0, QuantSpec(narrow=True), least)
    assert grid.scale[3] == least[3]
    made = bias_grid("b", bias, of_input, grid.scale, as_float=False)
    wanted = affine.bias_scale(step, torch.from_numpy(grid.scale))
    np.testing.assert_array_equal(made.scale, wanted.numpy())
    np.testing.assert_array_equal(
        made.codes, affine.quantize_bias(torch.from_numpy(bias), wanted).numpy()
    )


def test_groups_of_a_transposed_convolution_share_their_scales() -> None:
    bias = np.arange(6, dtype=np.float32)
    least = least_weight_scale(bias, np.float32(1), 3)
    np.testing.assert_array_equal(least, np.float32([3, 4, 5]) / np.float32(2**30))
    made = bias_grid("b", bias, np.float32(1), np.float32([1, 2, 3]), as_float=True)
    np.testing.assert_array_equal(made.scale, [1, 2, 3, 1, 2, 3])


def test_codes_that_no_operator_has_are_refused() -> None:
    with pytest.raises(GraphError, match=r"int16 affine per-tensor has no QuantizeLinear before"):
        activation_grid("x", -1, 1, QuantSpec(bits=16, symmetric=False))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(GraphError, match=r"the weight holds NaN or infinity\n  at:  conv\.weight"):
        weight_grid("conv.weight", np.float32([[1, np.nan]]), 0, QuantSpec())
