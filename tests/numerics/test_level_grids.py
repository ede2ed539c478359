"""The grid in numpy is the grid of affine.qparams."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from range_samples import spec_of

from qdq.errors import SpecError
from qdq.numerics.affine import qparams
from qdq.numerics.grids import Grid

laws = settings(deadline=None, derandomize=True, database=None, max_examples=300)
ends = st.floats(0, width=32, allow_infinity=False, max_value=2.0**120)


@laws
@given(below=ends, high=ends, bits=st.integers(2, 16), symmetric=st.booleans())
def test_scale_and_codes_on_each_side_are_those_of_qparams(
    below: float, high: float, bits: int, symmetric: bool
) -> None:
    spec = spec_of(bits, symmetric=symmetric)
    expected = qparams(torch.tensor(-below), torch.tensor(high), spec)
    laid = Grid(2**bits - 1, symmetric).lay(np.array([-below]), np.array([high]))
    scale, under, over = (each.item() for each in laid)
    assert scale == expected.scale.item()
    assert over == spec.qmax - expected.zero_point.item()
    assert under == expected.zero_point.item() - spec.qmin


def test_many_ranges_are_laid_as_each_alone() -> None:
    low, high = np.array([-1.0, 0.0, -2.0, 0.0]), np.array([1.0, 3.0, 0.0, 0.0])
    together = Grid(15).lay(low, high)
    for index in range(4):
        alone = Grid(15).lay(low[index : index + 1], high[index : index + 1])
        assert [each[index] for each in together] == [each.item() for each in alone]


def test_a_grid_of_one_step_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        Grid(1)
    assert str(caught.value) == (
        "a grid of levels=1 steps is too small\n  fix: pass levels=2**bits - 1, at least 3"
    )
