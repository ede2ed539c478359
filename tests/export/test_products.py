"""Adaptive pools whose windows differ: the file computes what torch does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

import qdq
from qdq.export.tracing import to_onnx


def run(content: bytes, x: Tensor) -> Any:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (lambda: nn.AdaptiveAvgPool1d(3), (2, 4, 7)),
        (lambda: nn.AdaptiveAvgPool2d(3), (2, 4, 7, 5)),
        (lambda: nn.AdaptiveAvgPool2d((7, 7)), (2, 4, 2, 2)),
        (lambda: nn.AdaptiveAvgPool2d((None, 2)), (2, 4, 5, 3)),  # type: ignore[arg-type]
        (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 4, 4, 6)),
        (lambda: nn.AdaptiveAvgPool3d((2, 3, 1)), (2, 4, 5, 4, 3)),
    ],
)
def test_a_pool_of_any_size_is_exported(
    pool: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model, x = pool().eval(), torch.randn(shape)
    content = to_onnx(model, x).SerializeToString()
    more = torch.randn(5, *shape[1:])
    np.testing.assert_allclose(run(content, more), model(more), rtol=1e-5, atol=1e-6)


def test_a_pool_whose_windows_are_alike_stays_a_pool() -> None:
    graph = to_onnx(nn.AdaptiveAvgPool2d(2).eval(), torch.randn(1, 2, 6, 4)).graph
    assert [node.op_type for node in graph.node] == ["AveragePool"]


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_quantized_net_with_such_a_pool_agrees_with_its_simulation(
    tmp_path: Path, target: str
) -> None:
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Conv2d(8, 8, 1)).eval()
    x = torch.randn(4, 3, 7, 7)
    qdq.insert(model, x, target=target)
    qdq.calibrate(model, [x], method="max", progress=False)
    qdq.export_onnx(model, x, tmp_path / "m.onnx")
    found, want = run((tmp_path / "m.onnx").read_bytes(), x), model(x).detach().numpy()
    step = np.abs(want).max() / 127
    assert np.abs(found - want).max() <= step
    assert np.abs(found - want).mean() <= step / 50
