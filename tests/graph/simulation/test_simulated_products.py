from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qdq.graph.simulation.arithmetic import exact_product
from tests.graph.simulation.simulated_nodes import CODES, MS, Draw, assert_same, simulated

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "padded": ((2, 8, 9, 10), (16, 8, 3, 3), {"pads": [1, 0, 2, 1]}),
    "pointwise": ((2, 8, 9, 10), (16, 8, 1, 1), {}),
    "grouped": ((2, 8, 9, 10), (16, 4, 3, 3), {"group": 2, "strides": [2, 1]}),
    "depthwise": ((2, 16, 9, 10), (16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}),
    "depth multiplied": ((2, 8, 9, 10), (16, 1, 3, 3), {"group": 8}),
    "same upper": ((1, 4, 10, 11), (8, 4, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    "same lower": ((1, 4, 10, 11), (8, 4, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [3, 3]}),
    "valid": ((1, 4, 10, 11), (8, 4, 3, 3), {"auto_pad": "VALID"}),
    "one axis": ((2, 8, 19), (16, 8, 3), {"pads": [1, 1]}),
    "three axes": ((1, 4, 5, 6, 7), (8, 4, 2, 2, 2), {}),
    "deep": ((1, 256, 5, 5), (16, 256, 3, 3), {}),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("kind", CODES)
def test_convolutions_give_onnxruntimes_codes(kind: Any, name: str, last: bool) -> None:
    x, w, attrs = CONVOLUTIONS[name]

    def make(draw: Draw) -> list[Any]:
        data = draw.codes(*x)
        data = np.ascontiguousarray(np.moveaxis(data, 1, -1)) if last else data
        return [
            data, draw.scale(), draw.zero(), draw.weights(*w), draw.scale(1, w[0]),
            np.zeros(w[0], np.int8), draw.scale(3000), draw.zero(), draw.bias(w[0]),
        ]  # fmt: skip

    layout = {"domain": MS, "channels_last": 1} if last else {}
    assert_same("QLinearConv", make, kind, seeds=3, **attrs, **layout)


def test_a_weight_may_have_a_zero_point_and_there_may_be_no_bias() -> None:
    def make(draw: Draw) -> list[Any]:
        w = draw.weights(8, 4, 3, 3).astype(np.uint8) & 63
        zero = np.uint8(31)
        return [
            draw.codes(1, 4, 8, 8), draw.scale(), draw.zero(), w, draw.scale(), zero,
            draw.scale(1000), draw.zero(),
        ]  # fmt: skip

    assert_same("QLinearConv", make, np.uint8)


def test_images_in_several_parts_are_the_images_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Draw(0, np.uint8)
    inputs = [
        draw.codes(5, 4, 6, 6), draw.scale(), draw.zero(), draw.weights(8, 4, 3, 3), draw.scale(),
        np.int8(0), draw.scale(1000), draw.zero(),
    ]  # fmt: skip
    whole = simulated("QLinearConv", inputs)
    monkeypatch.setattr("qdq.graph.simulation.products._MOST_AT_ONCE", 1)
    np.testing.assert_array_equal(whole, simulated("QLinearConv", inputs))


@pytest.mark.parametrize("name", ["padded", "grouped", "one axis"])
def test_convolutions_that_end_in_sums_have_onnxruntimes(name: str) -> None:
    x, w, attrs = CONVOLUTIONS[name]

    def make(draw: Draw) -> list[Any]:
        weights = (draw.weights(*w) & 63).astype(np.uint8)
        return [draw.codes(*x), weights, draw.zero(), np.uint8(31)]

    assert_same("ConvInteger", make, np.uint8, **attrs)
    assert_same("ConvInteger", lambda draw: make(draw)[:2], np.uint8, **attrs)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_products_that_end_in_sums_have_onnxruntimes(count: int) -> None:
    def make(draw: Draw) -> list[Any]:
        zeros = [draw.zero(), draw.weights(32)]
        return [draw.codes(2, 40, 50), draw.weights(50, 32), *zeros][:count]

    assert_same("MatMulInteger", make, np.uint8)


@pytest.mark.parametrize("columns", [(), (32,)])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("kind", CODES)
def test_products_of_matrices_give_onnxruntimes_codes(
    kind: Any, batch: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    def make(draw: Draw) -> list[Any]:
        return [
            draw.codes(*batch, 40, 50), draw.scale(), draw.zero(), draw.weights(50, 32),
            draw.scale(1, *columns), np.zeros(columns, np.int8), draw.scale(3000), draw.zero(),
        ]  # fmt: skip

    assert_same("QLinearMatMul", make, kind)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", CODES)
def test_products_that_end_in_floats_have_onnxruntimes_bits(kind: Any, bias: bool) -> None:
    def make(draw: Draw) -> list[Any]:
        added = draw.floats(32) * 100 if bias else None
        return [
            draw.codes(3, 40, 50), draw.weights(50, 32), draw.scale(), draw.scale(1, 32),
            draw.zero(), np.zeros(32, np.int8), added,
        ]  # fmt: skip

    assert_same("MatMulIntegerToFloat", make, kind, domain=MS)


@pytest.mark.parametrize("into_floats", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("kind", CODES)
def test_flat_products_give_onnxruntimes_codes_or_floats(
    kind: Any, transposed: int, into_floats: bool
) -> None:
    def make(draw: Draw) -> list[Any]:
        shape = (32, 50) if transposed else (50, 32)
        result = [] if into_floats else [draw.scale(3000), draw.zero()]
        return [
            draw.codes(40, 50), draw.scale(), draw.zero(), draw.weights(*shape), draw.scale(1, 32),
            np.zeros(32, np.int8), draw.bias(32), *result,
        ]  # fmt: skip

    assert_same("QGemm", make, kind, domain=MS, transB=transposed, alpha=1.75)


@given(
    arrays(np.int32, (3, 7), elements=st.integers(-255, 255)),
    arrays(np.int32, (7, 2), elements=st.integers(-(2**31) + 1, 2**31 - 1)),
)
def test_sums_of_products_are_those_of_integers_and_wrap_as_int32(
    rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]
) -> None:
    exact = [
        [sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) for column in columns.T]
        for row in rows
    ]
    wrapped = [[(each + 2**31) % 2**32 - 2**31 for each in row] for row in exact]
    assert exact_product(rows, columns).tolist() == wrapped


def test_a_product_with_a_scale_per_row_is_left_to_onnxruntime() -> None:
    draw = Draw(0, np.uint8)
    inputs = [
        draw.codes(4, 5), draw.scale(1, 4), draw.codes(4), draw.weights(5, 3), draw.scale(),
        np.int8(0), draw.scale(), draw.zero(),
    ]  # fmt: skip
    assert simulated("QLinearMatMul", inputs) is None
    sums = [inputs[0], inputs[3], draw.codes(4), np.int8(0)]
    assert simulated("MatMulInteger", sums) is None


def test_products_with_a_vector_and_scales_per_batch_are_left_to_onnxruntime() -> None:
    draw = Draw(0, np.uint8)
    grids = [draw.scale(), draw.zero()]
    vector = [draw.codes(4, 5), *grids, draw.weights(5), draw.scale(), np.int8(0), *grids]
    assert simulated("QLinearMatMul", vector) is None
    assert simulated("MatMulInteger", [vector[0], vector[3]]) is None
    batched = [draw.codes(2, 4, 5), draw.weights(2, 5, 3), draw.scale(), draw.scale(1, 3)]
    assert simulated("MatMulIntegerToFloat", batched, MS) is None
    bare = [draw.codes(4, 5), *grids, draw.weights(5, 3), draw.scale(), np.int8(0), None]
    assert simulated("QGemm", [*bare, draw.scale()], MS) is None
