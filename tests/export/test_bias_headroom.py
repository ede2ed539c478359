"""An int32 accumulator holds the largest bias and the products on top of it."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

import qdq

X = torch.rand(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))


def test_no_sum_wraps_where_a_bias_takes_all_its_codes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 4, 3)
    nn.init.constant_(conv.weight, 1e-7)
    step = float(X.max()) / 255 * 1e-7 / 127
    nn.init.constant_(conv.bias, step * 2.0**31)  # type: ignore[arg-type]
    model = nn.Sequential(conv, nn.ReLU()).eval()
    qdq.insert(model, X, target="onnxruntime")
    qdq.calibrate(model, [X], method="max", progress=False)
    path = tmp_path / "bias.onnx"
    qdq.export_onnx(model, X, path)
    found = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found += session.run(None, {"input": X.numpy()})
    expected = model(X).detach().numpy()
    one_code = float(expected.max()) / 255
    for each in found:
        np.testing.assert_allclose(each, expected, atol=one_code)
