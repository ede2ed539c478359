from typing import Any

import numpy as np
import pytest

from tests.graph.simulation.simulated_nodes import (
    CODES,
    MS,
    Draw,
    assert_same,
    simulated,
    x86_kernels,
)

WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3], "strides": [2, 2]},
    {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 1, 0, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [4, 4], "strides": [3, 3], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [4, 4], "strides": [3, 3], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [1, 1], "strides": [3, 2], "auto_pad": "SAME_UPPER"},
]


@pytest.mark.parametrize("whole", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", CODES)
def test_means_over_windows_give_onnxruntimes_codes(
    kind: Any, window: dict[str, Any], last: int, whole: int
) -> None:
    def make(draw: Draw) -> list[Any]:
        scale = draw.scale()
        return [draw.codes(2, 10, 11, 12), scale, draw.zero(), scale * np.float32(0.7), draw.zero()]

    attrs = window | {"channels_last": last, "count_include_pad": whole}
    assert_same("QLinearAveragePool", make, kind, domain=MS, **attrs)


@x86_kernels
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("kind", CODES)
def test_means_over_everything_give_onnxruntimes_codes(kind: Any, last: int) -> None:
    def make(draw: Draw) -> list[Any]:
        scale = draw.scale()
        return [draw.codes(2, 7, 5, 40), scale, draw.zero(), scale * np.float32(0.3), draw.zero()]

    assert_same("QLinearGlobalAveragePool", make, kind, domain=MS, seeds=30, channels_last=last)


@pytest.mark.parametrize("window", [*WINDOWS, {"kernel_shape": [2, 3], "dilations": [2, 3]}])
@pytest.mark.parametrize("kind", CODES)
def test_largest_codes_are_onnxruntimes(kind: Any, window: dict[str, Any]) -> None:
    assert_same("MaxPool", lambda draw: [draw.codes(2, 10, 11, 12)], kind, **window)
    assert_same("NhwcMaxPool", lambda draw: [draw.codes(2, 11, 12, 10)], kind, domain=MS, **window)


def test_the_largest_of_floats_is_left_to_onnxruntime() -> None:
    draw = Draw(0, np.uint8)
    assert simulated("MaxPool", [draw.floats(1, 1, 4, 4)], kernel_shape=[2, 2]) is None


@pytest.mark.parametrize("size", [(5, 5), (4,), (2, 3, 2)])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("kind", CODES)
def test_a_window_over_everything_has_the_sums_of_the_global_mean(
    kind: Any, last: int, size: tuple[int, ...]
) -> None:
    def make(draw: Draw) -> list[Any]:
        scale, x = draw.scale(), draw.codes(2, 40, *size)
        data = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
        return [data, scale, draw.zero(), scale, draw.zero()]

    attrs = {"domain": MS, "channels_last": last, "kernel_shape": list(size)}
    assert_same("QLinearAveragePool", make, kind, seeds=60, **attrs)


def test_windows_that_same_leaves_gaps_between_are_left_to_onnxruntime() -> None:
    draw = Draw(0, np.uint8)
    x, grid = draw.codes(1, 1, 9), [np.float32(1), np.uint8(0)]
    attrs: dict[str, Any] = {"strides": [3], "auto_pad": "SAME_UPPER", "kernel_shape": [1]}
    assert simulated("MaxPool", [x], **attrs) is None
    assert simulated("QLinearAveragePool", [x, *grid, *grid], MS, **attrs) is None
    w = np.ones((1, 1, 1), np.int8)
    assert simulated("QLinearConv", [x, *grid, w, grid[0], np.int8(0), *grid], **attrs) is None
    assert simulated("ConvInteger", [x, w], **attrs) is None
