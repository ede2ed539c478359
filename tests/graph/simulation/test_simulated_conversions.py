from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.simulation.simulated_nodes import MS, Draw, assert_same, run, simulated

KINDS = (np.uint8, np.int8, np.uint16, np.int16)


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    st.sampled_from([1.0, 0.1, 0.25, 3.0, 1e-30]),
    st.integers(-128, 127),
)
def test_floats_become_onnxruntimes_codes_ties_and_infinities_too(
    values: list[float], scale: float, zero: int
) -> None:
    halves = np.arange(-3, 3.5, 0.5, np.float32) * np.float32(scale)
    inputs = [np.float32([*values, *halves]), np.float32(scale), np.int8(zero)]
    with np.errstate(over="ignore"):
        found = simulated("QuantizeLinear", inputs)
    np.testing.assert_array_equal(found, run("QuantizeLinear", inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_work_per_tensor_and_along_an_axis(kind: Any) -> None:
    version = 21 if np.dtype(kind).itemsize > 1 else 13
    for axis, channels in ((1, (5,)), (-1, (7,)), (0, ())):
        for op in ("QuantizeLinear", "DequantizeLinear"):

            def make(draw: Draw, op: str = op, channels: Any = channels) -> list[Any]:
                x = draw.floats(4, 5, 7) if op == "QuantizeLinear" else draw.codes(4, 5, 7)
                return [x, draw.scale(0.1, *channels), draw.codes(*channels)]

            attrs = {"axis": axis}
            for seed in range(3):
                inputs = make(Draw(seed, kind))
                expected = run(op, inputs, version=version, **attrs)
                np.testing.assert_array_equal(simulated(op, inputs, **attrs), expected)


def test_a_zero_point_may_be_left_out_and_a_bias_is_dequantized() -> None:
    assert_same("QuantizeLinear", lambda draw: [draw.floats(200), draw.scale(0.02)], np.uint8)
    assert_same(
        "DequantizeLinear", lambda draw: [draw.bias(200), draw.scale(1, 200)], np.int32, axis=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_microsofts_own_operators_are_the_same(kind: Any) -> None:
    def quantized(draw: Draw) -> list[Any]:
        return [draw.floats(200), draw.scale(0.02), draw.zero()]

    def dequantized(draw: Draw) -> list[Any]:
        return [draw.codes(200), draw.scale(), draw.zero()]

    assert_same("QuantizeLinear", quantized, kind, domain=MS)
    assert_same("DequantizeLinear", dequantized, kind, domain=MS)


def test_half_floats_blocks_and_other_types_are_left_to_onnxruntime() -> None:
    draw = Draw(0, np.int8)
    half, scale = draw.floats(4).astype(np.float16), np.float16(0.5)
    assert simulated("QuantizeLinear", [half, scale, np.int8(0)]) is None
    blocks = [draw.codes(4, 4), draw.scale(1, 2, 4), draw.codes(2, 4)]
    assert simulated("DequantizeLinear", blocks, block_size=2, axis=0) is None
    assert simulated("QuantizeLinear", [draw.floats(4), draw.scale()], output_dtype=3) is None
    float8 = np.zeros((), ml_dtypes.float8_e4m3fn)  # whose codes onnxruntime hands out as uint8
    codes = draw.codes(4).astype(np.uint8)
    assert simulated("DequantizeLinear", [codes, draw.scale(), float8]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_becomes_the_smallest_code(kind: Any) -> None:
    inputs = [np.float32([np.nan, 1, np.inf, -np.inf]), np.float32(0.5), kind(3)]
    found = simulated("QuantizeLinear", inputs)
    np.testing.assert_array_equal(found, run("QuantizeLinear", inputs, version=21))
