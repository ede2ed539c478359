from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from qdq.calibration.choosing import calibrate
from qdq.errors import GraphError
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.graph.coverage import integer_layers, optimized_ops
from qdq.insertion.replacing import insert

X = torch.randn(4, 16, 6, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 5)).eval()


def test_a_float_file_runs_no_layer_in_integers(tmp_path: Path) -> None:
    onnx.save(to_onnx(net(), X), tmp_path / "m.onnx")
    assert integer_layers(optimized_ops(tmp_path / "m.onnx")) == (0, 3)


def test_an_ignored_layer_is_the_one_that_stays_float(tmp_path: Path) -> None:
    model = net()
    insert(model, X, target="onnxruntime", ignore="2")
    calibrate(model, [X], method="max", progress=False)
    export_onnx(model, X, tmp_path / "m.onnx")
    assert integer_layers(optimized_ops(tmp_path / "m.onnx")) == (2, 3)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(GraphError, match="onnxruntime refuses this file"):
        optimized_ops(tmp_path / "m.onnx")
