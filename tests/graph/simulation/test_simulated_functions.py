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
