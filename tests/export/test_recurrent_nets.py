"""Recurrent nets and embeddings, inserted, calibrated and exported for both targets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.export.writing import export_onnx
from qdq.graph.coverage import optimized_ops
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers

STEPS = 5


class Layers(nn.Module):
    """A convolution, a recurrent layer in both directions, a linear layer."""

    def __init__(self, float_class: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 16, 3, padding=1)
        self.rnn = float_class(16, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(torch.relu(self.conv(x)).transpose(1, 2))[0])


class Cells(nn.Module):
    """An embedding and two cells, called at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.lstm, self.gru = nn.LSTMCell(8, 16), nn.GRUCell(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        h = c = g = torch.zeros(tokens.shape[0], 16)
        for t in range(STEPS):
            h, c = self.lstm(self.table(tokens[:, t]), (h, c))
            g = self.gru(h, g)
        return g


NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Layers(nn.LSTM),
    "gru": lambda: Layers(nn.GRU),
    "cells": Cells,
}
TARGETS = pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])


def example(name: str, rows: int = 2) -> Tensor:
    made = torch.Generator().manual_seed(rows)
    if name == "cells":
        return torch.randint(0, 9, (rows, STEPS), generator=made)
    return torch.randn(rows, 3, STEPS, generator=made)


def written(name: str, target: str, path: Path) -> nn.Module:
    torch.manual_seed(0)
    model = NETS[name]().eval()
    insert(model, example(name), target=target)
    calibrate(model, [example(name, 8)], method="max", progress=False)
    export_onnx(model, example(name), path)
    return model


@TARGETS
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_file_computes_what_torch_simulates(name: str, target: str, tmp_path: Path) -> None:
    model = written(name, target, tmp_path / "m.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"]
    )
    x = example(name, 3)
    (found,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "products"), [("lstm", 2 * (1 + STEPS) + 1), ("cells", 4 * STEPS)]
)
def test_every_product_runs_in_integers(name: str, products: int, tmp_path: Path) -> None:
    written(name, "onnxruntime", tmp_path / "m.onnx")
    ops = optimized_ops(tmp_path / "m.onnx")
    assert ops.get("QGemm", 0) + ops["MatMulIntegerToFloat"] == products
    assert not ops.keys() & {"MatMul", "Gemm", "FusedMatMul", "Conv", "FusedConv"}
    if name == "lstm":
        assert ops["QLinearConv"] == 1


def test_an_embedding_picks_codes_and_dequantizes_what_it_picked(tmp_path: Path) -> None:
    written("cells", "onnxruntime", tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    picks = [node for node in graph.node if node.op_type == "Gather" and "table" in node.input[0]]
    assert [node.input[0] for node in picks] == ["table.weight.codes"] * STEPS
    readers = {name: node.op_type for node in graph.node for name in node.input}
    assert {readers[node.output[0]] for node in picks} == {"DequantizeLinear"}


def test_a_weight_that_many_steps_read_is_in_the_file_once(tmp_path: Path) -> None:
    written("cells", "onnxruntime", tmp_path / "m.onnx")
    names = [each.name for each in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert len(names) == len(set(names))
    assert sum(name.endswith(".codes") for name in names) == 5


@TARGETS
def test_weights_are_rounded_per_channel_whatever_grid_the_target_gives_activations(
    target: str,
) -> None:
    model = NETS["lstm"]().eval()
    insert(model, example("lstm"), target=target)
    for site, quantizer in quantizers(model).items():
        if site.startswith("rnn.weight_"):
            assert (quantizer.spec.keep_axis, quantizer.spec.signed, quantizer.spec.narrow) == (
                0, True, True,
            )  # fmt: skip


class Unsupported(nn.Module):
    """Options that no twin quantizes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, max_norm=1.0)
        self.rnn, self.head = nn.LSTM(4, 6, proj_size=2), nn.Linear(2, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.table(tokens))[0])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_layers_their_twin_cannot_quantize_are_left_float_with_a_reason() -> None:
    report = insert(Unsupported().eval(), torch.tensor([[0, 1]]))
    whys = {row.name: row.why for row in report.rows if row.action == "skip"}
    assert whys["rnn"].startswith("proj_size=2 is a third product")
    assert whys["table"].startswith("max_norm=1.0 rescales rows")
