from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.graph.simulation.simulated_nodes import Draw, assert_same, simulated

MOVES: list[tuple[str, Sequence[Any], dict[str, Any]]] = [
    ("Transpose", (), {"perm": [0, 2, 3, 1]}),
    ("Transpose", (), {}),
    ("Identity", (), {}),
    ("Flatten", (), {"axis": 2}),
    ("Flatten", (), {"axis": -1}),
    ("Flatten", (), {"axis": 0}),
    ("Reshape", (np.array([0, -1, 6]),), {}),
    ("Pad", (np.array([0, 1, 2, 0, 1, 0, 0, 3]), np.uint8(7)), {}),
    ("Pad", (np.array([0, 1, 2, 0, 1, 0, 0, 3]),), {"mode": "constant"}),
    ("SpaceToDepth", (), {"blocksize": 2}),
]


@pytest.mark.parametrize(("op", "others", "attrs"), MOVES)
def test_values_are_moved_as_onnxruntime_moves_them(
    op: str, others: Sequence[Any], attrs: dict[str, Any]
) -> None:
    assert_same(op, lambda draw: [draw.codes(2, 3, 4, 6), *others], np.uint8, seeds=1, **attrs)


def test_parts_are_put_side_by_side() -> None:
    draw = Draw(0, np.int8)
    parts = [draw.codes(2, 3), draw.codes(2, 5)]
    np.testing.assert_array_equal(simulated("Concat", parts, axis=1), np.hstack(parts))


def test_pads_of_other_forms_are_left_to_onnxruntime() -> None:
    x, pads = Draw(0, np.uint8).codes(2, 3), np.array([0, 1, 0, 1])
    assert simulated("Pad", [x, pads], mode="reflect") is None
    assert simulated("Pad", [x, -pads]) is None
    assert simulated("Pad", [x, pads, np.uint8(0), np.array([0, 1])]) is None
