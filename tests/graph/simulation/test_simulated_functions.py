from typing import Any

import numpy as np
import pytest

from tests.graph.simulation.simulated_nodes import CODES, MS, Draw, assert_same


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
@pytest.mark.parametrize("kind", CODES)
def test_every_code_gives_onnxruntimes(op: str, kind: Any) -> None:
    every = np.arange(256).astype(kind)

    def make(draw: Draw) -> list[Any]:
        return [every, draw.scale(), draw.zero(), draw.scale(0.02), draw.zero()]

    attrs = {"alpha": 0.3} if op == "QLinearLeakyRelu" else {}
    assert_same(op, make, kind, domain=MS, seeds=100, **attrs)


def test_one_half_lies_between_two_codes_of_sigmoid_and_goes_to_the_even_one() -> None:
    every = np.arange(256).astype(np.uint8)
    half = [every, np.float32(0.1), np.uint8(128), np.float32(1 / 255), np.uint8(0)]
    assert_same("QLinearSigmoid", lambda _: half, np.uint8, domain=MS, seeds=1)


@pytest.mark.parametrize(
    "form", [{"opset": 13, "axis": -1}, {"opset": 13, "axis": 1}, {"opset": 11, "axis": 1}]
)
@pytest.mark.parametrize("length", [2, 7, 300])
@pytest.mark.parametrize("kind", CODES)
def test_softmax_gives_onnxruntimes_codes(kind: Any, length: int, form: dict[str, Any]) -> None:
    lowest = np.asarray(np.iinfo(kind).min, kind)

    def make(draw: Draw) -> list[Any]:
        x = draw.codes(6, 7, length)
        return [x, draw.scale(0.2), draw.zero(), np.float32(1 / 256), lowest]

    assert_same("QLinearSoftmax", make, kind, domain=MS, seeds=20, **form)


@pytest.mark.parametrize("scale", [1 / 256, 1 / 300, 4e-10, 1e-12, 3.0])
@pytest.mark.parametrize("zero", [0, 39, 127])
@pytest.mark.parametrize("kind", CODES)
def test_softmax_on_grids_that_its_shares_leave_gives_onnxruntimes_codes(
    kind: Any, zero: int, scale: float
) -> None:
    def make(draw: Draw) -> list[Any]:
        return [draw.codes(6, 7), draw.scale(0.5), draw.zero(), np.float32(scale), kind(zero)]

    with np.errstate(over="ignore", invalid="ignore"):
        assert_same("QLinearSoftmax", make, kind, domain=MS, opset=13, axis=-1)


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_the_zero_point_of_the_codes_may_be_left_out(op: str) -> None:
    every = np.arange(256).astype(np.int8)

    def make(draw: Draw) -> list[Any]:
        return [every, draw.scale(), None, draw.scale(0.02), draw.zero()]

    assert_same(op, make, np.int8, domain=MS)


@pytest.mark.parametrize(
    ("x_scale", "x_zero", "y_scale"),
    [
        (0.5559497475624084, 56, 0.0035503117833286524),
        (0.1468649059534073, 62, 0.004264370538294315),
    ],
)
def test_sigmoid_is_approximated_as_onnxruntime_does(
    x_scale: float, x_zero: int, y_scale: float
) -> None:
    every = np.arange(256).astype(np.uint8)  # one lies on the border of two codes
    inputs = [every, np.float32(x_scale), np.uint8(x_zero), np.float32(y_scale), np.uint8(0)]
    assert_same("QLinearSigmoid", lambda _: inputs, np.uint8, domain=MS, seeds=1)
