"""Reports of insert and export say how long the file is predicted to take."""

from pathlib import Path

import pytest
import torch
from torch import nn

import qdq
from qdq.records.decisions import told_ratio


@pytest.mark.parametrize(
    ("predicted", "told"),
    [
        (None, []),
        (0.294, ["  predicted to take 0.29 of the float time"]),
        (
            1.5,
            [
                "  predicted to take 1.50 of the float time, so it is slower: the target's option "
                "fastest=True leaves float what is faster so"
            ],
        ),
    ],
)
def test_a_ratio_is_told_and_the_way_out_where_it_is_no_gain(
    predicted: float | None, told: list[str]
) -> None:
    assert told_ratio(predicted) == told


@pytest.mark.parametrize(("width", "gains"), [(16, False), (1024, True)])
def test_insert_and_export_predict_the_same(width: int, gains: bool, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).eval()
    x = torch.randn(2, width)
    inserted = qdq.insert(net, x, target="onnxruntime")
    qdq.calibrate(net, [x], method="max", progress=False)
    exported = qdq.export_onnx(net, x, tmp_path / "m.onnx")
    assert inserted.predicted == exported.predicted
    assert inserted.predicted is not None
    assert (inserted.predicted < 1) == gains
    assert ("so it is slower" in str(inserted)) == ("so it is slower" in str(exported)) != gains


def test_nothing_is_predicted_for_tensorrt() -> None:
    net = nn.Sequential(nn.Linear(16, 16)).eval()
    assert qdq.insert(net, torch.zeros(1, 16)).predicted is None


def test_the_fastest_placement_is_not_predicted_to_be_slower_than_float() -> None:
    net = nn.Sequential(nn.Linear(16, 16)).eval()
    target = qdq.targets.get("onnxruntime", fastest=True)
    assert qdq.insert(net, torch.zeros(1, 16), target=target).predicted == 1.0
