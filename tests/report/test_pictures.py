from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qdq.errors import RegistryError
from qdq.numerics.histogram import from_values
from qdq.numerics.thresholds import METHODS
from qdq.records.pictures import SitePicture
from qdq.report.pictures import PICTURE_BINS, picture

RNG = np.random.default_rng(7)
VALUES: dict[str, NDArray[Any]] = {
    "normal": RNG.normal(size=20_000),
    "relu": np.maximum(RNG.normal(size=20_000), 0),
    "negative": -RNG.exponential(size=20_000) - 1,
    "far from 0": RNG.uniform(5, 6, size=20_000),
    "outlier": np.append(RNG.normal(size=20_000), 1e6),
    "few": np.array([-1.0, 0.5, 2.0]),
    "pixels": RNG.integers(0, 17, size=20_000) / 16,
    "one value": np.full(9, 3.0),
    "zeros of both signs": np.array([0.0, -0.0, 0.0]),
}

DRAWN = [method for method in METHODS if method != "auto"]


@pytest.fixture(params=VALUES)
def values(request: pytest.FixtureRequest) -> NDArray[np.float32]:
    return VALUES[request.param].astype(np.float32)


def drawn(values: NDArray[np.float32], method: str = "mse") -> SitePicture:
    return picture("site", from_values(values), method)


def test_no_value_is_lost_and_none_invented(values: NDArray[np.float32]) -> None:
    found = drawn(values)
    assert len(found.counts) == PICTURE_BINS
    assert sum(found.counts) == values.size
    assert min(found.counts) >= 0


def test_counts_are_numpys_up_to_what_lies_in_the_bin_that_an_edge_cuts(
    values: NDArray[np.float32],
) -> None:
    found = drawn(values)
    exact, edges = np.histogram(
        values.astype(np.float64), bins=PICTURE_BINS, range=(found.low, found.high or 1e-9)
    )
    for ours, numpys, edge in zip(
        np.cumsum(found.counts)[:-1], np.cumsum(exact)[:-1], edges[1:-1], strict=True
    ):
        near = np.abs(values - edge) <= np.abs(edge) / 128
        assert abs(ours - numpys) <= near.sum() + 1 or found.low == found.high


def test_ranges_are_the_methods_and_lie_inside_the_picture(values: NDArray[np.float32]) -> None:
    found = drawn(values)
    assert list(found.thresholds) == DRAWN
    for method, (amin, amax) in found.thresholds.items():
        assert (amin, amax) == METHODS[method](from_values(values))
        assert found.low <= amin <= amax <= found.high


def test_the_clipped_share_is_that_of_the_values(values: NDArray[np.float32]) -> None:
    found = drawn(values)
    assert found.clipped["max"] == 0
    for method, (amin, amax) in found.thresholds.items():
        exact = ((values < amin) | (values > amax)).mean()
        near = sum((np.abs(values - end) <= abs(end) / 128).sum() for end in (amin, amax) if end)
        assert abs(found.clipped[method] - exact) <= near / values.size + 1e-12


def test_the_order_of_the_values_does_not_matter() -> None:
    values = VALUES["normal"].astype(np.float32)
    assert drawn(values) == drawn(values[::-1])


def test_a_range_that_is_known_is_not_searched_again() -> None:
    hist = from_values(VALUES["normal"].astype(np.float32))
    found = picture("site", hist, "mse", held=(-1.0, 1.0))
    assert found.thresholds["mse"] == (-1.0, 1.0)
    assert found.clipped["mse"] == pytest.approx(0.3173, abs=0.01)  # outside one sigma
    own = picture("site", hist, "by hand", held=(-0.0, 1.0))
    assert list(own.thresholds) == [*DRAWN, "by hand"]
    assert (own.chosen, str(own.thresholds["by hand"])) == ("by hand", "(0.0, 1.0)")


def test_a_picture_survives_json() -> None:
    found = drawn(VALUES["relu"].astype(np.float32), "percentile")
    assert SitePicture.from_dict(found.to_dict()) == found
    assert found.chosen == "percentile"


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(RegistryError, match="no calibration method 'means'"):
        drawn(np.ones(3, np.float32), "means")
