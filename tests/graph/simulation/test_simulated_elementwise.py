from typing import Any

import numpy as np
import pytest

from tests.graph.simulation.simulated_nodes import (
    CODES,
    MS,
    Array,
    Draw,
    assert_same,
    simulated,
    x86_kernels,
)

pytestmark = x86_kernels

# Spans of one code for many of the other side take another order of operations.
SHAPES = [
    ((4, 5, 60), (4, 5, 60)), ((4, 5, 60), (5, 1)), ((5, 1), (4, 5, 60)), ((4, 5, 60), (60,)),
    ((2, 1, 60), (2, 5, 1)), ((2, 50, 1), (50, 1)), ((256,), (1,)), ((1,), (256,)),
]  # fmt: skip


def operands(draw: Draw, a: Array, b: Array, scale: float = 1.0) -> list[Any]:
    return [
        a, draw.scale(), draw.zero(), b, draw.scale(scale), draw.zero(), draw.scale(), draw.zero(),
    ]  # fmt: skip


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("kind", CODES)
def test_every_pair_of_codes_gives_onnxruntimes_code(op: str, kind: Any) -> None:
    every = np.arange(256).astype(kind)

    def make(draw: Draw) -> list[Any]:
        return operands(draw, np.repeat(every, 256), np.tile(every, 256), 0.01)

    assert_same(op, make, kind, domain=MS)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("kind", CODES)
def test_operands_are_broadcast_as_onnxruntime_does(
    op: str, a: tuple[int, ...], b: tuple[int, ...], kind: Any
) -> None:
    def make(draw: Draw) -> list[Any]:
        return operands(draw, draw.codes(*a), draw.codes(*b))

    assert_same(op, make, kind, domain=MS, seeds=16)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("kind", CODES)
def test_the_zero_point_of_the_result_may_be_left_out(op: str, kind: Any) -> None:
    def make(draw: Draw) -> list[Any]:
        return operands(draw, draw.codes(200), draw.codes(200))[:7]

    assert_same(op, make, kind, domain=MS)


@pytest.mark.parametrize("kind", CODES)
def test_concatenated_parts_are_brought_to_one_grid(kind: Any) -> None:
    every = np.arange(256).astype(kind)

    def make(draw: Draw) -> list[Any]:
        scale, zero = draw.scale(), draw.zero()
        same = [every, scale, zero]
        return [scale, zero, *same, every, draw.scale(), draw.zero()]

    assert_same("QLinearConcat", make, kind, domain=MS, axis=0)


def test_codes_of_16_bits_are_left_to_onnxruntime() -> None:
    draw = Draw(0, np.uint16)
    assert simulated("QLinearAdd", operands(draw, draw.codes(9), draw.codes(9)), MS) is None


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("scale", [1e-30, 1e-12])
@pytest.mark.parametrize("kind", CODES)
def test_sums_that_no_int32_can_hold_become_the_smallest_code(
    op: str, scale: float, kind: Any
) -> None:
    def make(draw: Draw) -> list[Any]:
        inputs = operands(draw, draw.codes(40), draw.codes(40))
        return [*inputs[:6], np.float32(scale), inputs[7]]

    with np.errstate(over="ignore", invalid="ignore"):
        assert_same(op, make, kind, domain=MS)


@pytest.mark.parametrize(
    ("a", "b"),
    [((), ()), ((1, 1), (1,)), ((3, 1), (1,)), ((3, 1), ()), ((), (3, 1)), ((1,), (3, 1))],
)
def test_sums_of_single_numbers_are_rounded_in_onnxruntimes_order(
    a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    def make(draw: Draw) -> list[Any]:
        inputs = operands(draw, draw.codes(*a), draw.codes(*b), 1e4)
        inputs[3] = np.full(b, inputs[5], np.uint8)  # large terms that cancel
        return inputs

    assert_same("QLinearAdd", make, np.uint8, domain=MS, seeds=150)
