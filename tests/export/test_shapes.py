"""The shapes that a file declares."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.export.writing import export_onnx
from qdq.insertion.replacing import insert


class InPlace(nn.Module):
    """A sum that lands in the place of its first operand, with or without a layer behind it."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        y += x
        return self.last(y)  # type: ignore[no-any-return]


def axes(values: Any) -> list[list[int | str]]:
    shapes = [each.type.tensor_type.shape.dim for each in values]
    return [[dim.dim_param or dim.dim_value for dim in shape] for shape in shapes]


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize(
    ("last", "shape"),
    [(nn.Conv2d(8, 4, 1), ["batch", 4, 8, 8]), (nn.Identity(), ["batch", 8, 8, 8])],
)
def test_behind_a_sum_in_place_every_size_but_the_batch_is_known(
    tmp_path: Path, target: str, last: nn.Module, shape: list[int | str]
) -> None:
    model, x = InPlace(last).eval(), torch.randn(2, 3, 10, 10)
    insert(model, x, target=target)
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, tmp_path / "m.onnx")
    assert axes(onnx.load(tmp_path / "m.onnx").graph.output) == [shape]
