"""Laws of grids and weights on their way from one target to another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdq.graph.retargeting.grids import HeldCodes, Known, PairGrid, grid_for
from qdq.graph.retargeting.weights import written
from qdq.targets import get

TENSORRT, ONNXRUNTIME = get("tensorrt"), get("onnxruntime")
GRIDS = st.builds(
    PairGrid,
    st.floats(2**-20, 1e3, width=32),
    st.integers(0, 255),
    st.just("uint8"),
) | st.builds(
    PairGrid, st.floats(2**-20, 1e3, width=32), st.integers(-128, 127), st.just("int8")
)  # fmt: skip


def codes_of(x: np.ndarray, grid: PairGrid) -> np.ndarray:
    """ONNX QuantizeLinear, written apart, less the zero point."""
    low, high = (-128, 127) if grid.kind == "int8" else (0, 255)
    steps = np.rint(x / np.float32(grid.scale)) + grid.zero_point
    return np.asarray(np.clip(steps, low, high) - grid.zero_point)


@given(GRIDS)
def test_with_match_the_grids_are_nested(grid: PairGrid) -> None:
    known = Known(grid.range, grid, "file")
    for target in (TENSORRT, ONNXRUNTIME):
        found = grid_for(target, grid.range, known, match=True)
        assert found.scale in (grid.scale, 2 * grid.scale)


@given(GRIDS)
def test_no_value_of_the_range_is_clipped_by_more_than_a_step(grid: PairGrid) -> None:
    known = Known(grid.range, grid, "file")
    for target in (TENSORRT, ONNXRUNTIME):
        for match in (True, False):
            found = grid_for(target, grid.range, known, match=match)
            low, high = found.ends
            assert low - found.scale <= grid.range[0]
            assert grid.range[1] <= high + found.scale


@given(st.floats(2**-20, 1e3, width=32))
def test_a_centred_grid_is_kept_code_for_code(scale: float) -> None:
    grid = PairGrid(scale, 0, "int8")
    x = np.linspace(-150, 150, 4001, dtype=np.float32) * np.float32(scale)
    found = grid_for(ONNXRUNTIME, grid.range, Known(grid.range, grid, "file"), match=False)
    assert (found.kind, found.zero_point) == ("uint8", 128)
    np.testing.assert_array_equal(codes_of(x, found), codes_of(x, grid))
    back = grid_for(TENSORRT, found.range, Known(found.range, found, "file"), match=False)
    assert back == grid


@given(st.floats(2**-20, 1e3, width=32))
def test_of_what_is_not_negative_codes_map_one_to_one_with_match(scale: float) -> None:
    grid = PairGrid(scale, 0, "int8")
    x = np.linspace(0, 127, 4001, dtype=np.float32) * np.float32(scale)
    range_ = (0.0, grid.range[1])
    found = grid_for(ONNXRUNTIME, range_, Known(grid.range, grid, "file"), match=True)
    assert (found.kind, found.zero_point, found.scale) == ("uint8", 0, scale)
    np.testing.assert_array_equal(codes_of(x, found), codes_of(x, grid))


def test_a_range_of_nothing_has_step_one() -> None:
    known = Known((0.0, 0.0), None, "measured")
    assert grid_for(TENSORRT, (0.0, 0.0), known, match=False).scale == 1.0


def held(codes: list[int], kind: str, point: int) -> HeldCodes:
    points = np.array(point, kind)
    return HeldCodes(np.array([codes], kind), np.array(0.5, np.float32), points, None)


@pytest.mark.parametrize("target", [TENSORRT, ONNXRUNTIME])
def test_codes_around_128_are_shifted_and_mean_the_same(target: object) -> None:
    weight = held([0, 128, 255], "uint8", 128)
    found = written(weight, target)  # type: ignore[arg-type]
    assert found.how == "shifted"
    np.testing.assert_array_equal(found.codes.codes, [[-128, 0, 127]])
    np.testing.assert_array_equal(found.codes.values(), weight.values())


def test_only_where_codes_have_no_place_are_they_quantized_again() -> None:
    weight = held([0, 20, 255], "uint8", 20)
    assert written(weight, ONNXRUNTIME).how == "kept"
    again = written(weight, TENSORRT)
    assert again.how == "requantized"
    step = float(again.scale)
    assert np.abs(again.codes.values() - weight.values()).max() <= step / 2 + 1e-6
    assert step == pytest.approx(235 * 0.5 / 127)


def test_per_channel_values_lie_along_their_axis() -> None:
    codes = np.arange(6, dtype=np.int8).reshape(2, 3)
    scale = np.float32([1, 10, 100])
    weight = HeldCodes(codes, scale, np.zeros(3, np.int8), 1)
    np.testing.assert_array_equal(weight.values(), [[0, 10, 200], [3, 40, 500]])
