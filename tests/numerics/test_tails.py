"""Sums beyond a point against the same sums over values spread over their bins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from range_samples import KINDS, Floats, sample

from qdq.numerics.histogram import from_values
from qdq.numerics.tails import tails_of

laws = settings(deadline=None, derandomize=True, database=None, max_examples=60)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def beyond(values: Floats, places: NDArray[np.float64], power: int) -> NDArray[np.float64]:
    further = np.maximum(values.astype(np.float64)[:, None] - places, 0.0)
    return ((further > 0) * further**power).sum(axis=0)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_beyond_a_point_are_those_of_the_values(kind: str, negative: bool) -> None:
    values = sample(20_000, kind)
    tail = tails_of(from_values(values))[0 if negative else 1]
    side = np.maximum(-values if negative else values, 0)
    places = np.linspace(0, float(side.max()) * 1.1, 50)
    for power, found in ((1, tail.distance_beyond(places)), (2, tail.square_beyond(places))):
        exact = beyond(side, places, power)
        assert (np.abs(found - exact) <= 0.003 * exact[0] + 1e-12).all()


@laws
@given(values=st.lists(finite, min_size=1, max_size=40).map(np.float32), share=st.floats(0, 1.5))
def test_nothing_lies_beyond_the_largest_value_and_all_beyond_0(
    values: Floats, share: float
) -> None:
    for side, tail in zip((-values, values), tails_of(from_values(values)), strict=True):
        above = side[side >= 2.0**-134]  # smaller ones share their bin with the zeros
        assert tail.peak >= above.max(initial=0)
        assert tail.count[0] == len(above)
        place = np.array([share * tail.peak, tail.peak])
        for sums in (tail.square_beyond(place), tail.distance_beyond(place)):
            assert sums[0] >= sums[1] == 0


def test_a_side_without_values_is_empty() -> None:
    below, above = tails_of(from_values(np.float32([0.0, 1.0, 2.0])))
    assert (below.peak, above.peak) == (0.0, 2.0 * (1 + 2.0**-8))
    for sums in (below.distance_beyond, below.square_beyond):
        assert sums(np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
