"""Layers of every rank from insertion to onnxruntime, for both targets."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_nets import fed, outputs
from test_agreement import EXTENDED, OFF, TARGETS, apart, floats, integer_kernels, session
from torch import nn

from qdq.calibration.choosing import calibrate
from qdq.export.writing import export_onnx
from qdq.insertion.replacing import insert

SIDES = {1: (8,), 2: (8, 8), 3: (6, 6, 6)}
CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE: dict[int, Any] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}
TRANSPOSED: dict[int, Any] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def pooling(rank: int) -> nn.Module:
    return nn.Sequential(
        CONVS[rank](3, 8, 3, padding=1), nn.ReLU(), POOLS[rank](2), CONVS[rank](8, 4, 3, padding=1),
        nn.ReLU(), ADAPTIVE[rank](1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def reflecting(rank: int) -> nn.Module:
    mode = "replicate" if rank == 3 else "reflect"
    return nn.Sequential(
        CONVS[rank](3, 8, 3, padding="same", padding_mode=mode), nn.ReLU(), CONVS[rank](8, 4, 1)
    )


def enlarging(rank: int, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        CONVS[rank](3, 8, 3), nn.ReLU(), TRANSPOSED[rank](8, 6, 3, stride=2, groups=groups),
        nn.ReLU(), CONVS[rank](6, 4, 3),
    )  # fmt: skip


def enlarging_in_groups(rank: int) -> nn.Module:
    return enlarging(rank, 2)


def written(build: Callable[[int], nn.Module], rank: int, target: str, path: Path) -> Any:
    """(model, its input, what it computes) after an export to `path`."""
    torch.manual_seed(0)
    model, x = build(rank).eval(), torch.randn(4, 3, *SIDES[rank])
    insert(model, x, target=target)
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, path)
    return model, x, outputs(model, x)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("build", [pooling, reflecting, enlarging, enlarging_in_groups])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_onnxruntime_computes_what_torch_simulates(
    tmp_path: Path, rank: int, build: Callable[[int], nn.Module], target: str
) -> None:
    _, x, want = written(build, rank, target, tmp_path / "m.onnx")
    assert apart(fed(session(tmp_path / "m.onnx", OFF), x), want) < 1e-5


@integer_kernels
@pytest.mark.parametrize("rank", [2, 3])
def test_average_pools_run_in_integers(tmp_path: Path, rank: int) -> None:
    _, x, want = written(pooling, rank, "onnxruntime", tmp_path / "m.onnx")
    run = session(tmp_path / "m.onnx", EXTENDED, tmp_path / "optimized.onnx")
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["QLinearAveragePool"] == ops["QLinearGlobalAveragePool"] == ops["QGemm"] == 1
    assert ops["QLinearConv"] == 2
    assert apart(fed(run, x), want) < 0.02  # its pools sum in integers and may round a tie apart


@pytest.mark.parametrize("build", [enlarging, enlarging_in_groups])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_transposed_convolution_keeps_its_float_weight_in_onnxruntimes_own_graph(
    tmp_path: Path, rank: int, build: Callable[[int], nn.Module]
) -> None:
    model, x, want = written(build, rank, "onnxruntime", tmp_path / "m.onnx")
    run = session(tmp_path / "m.onnx", EXTENDED, tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    weight = model[2].weight.detach().numpy()
    assert any(np.array_equal(weight, held) for held in floats(graph))
    assert Counter(node.op_type for node in graph.node)["QLinearConv"] == 2
    assert apart(fed(run, x), want) < 1e-5
