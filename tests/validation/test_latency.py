import json
from pathlib import Path

import onnx
import torch
from torch import nn

from qdq.export.tracing import to_onnx
from qdq.validation.latency import compare_latency


def test_files_are_run_in_turn_and_divided_by_the_first(tmp_path: Path) -> None:
    for name, width in (("small", 8), ("large", 512)):
        net = nn.Sequential(*[nn.Linear(width, width) for _ in range(4)]).eval()
        onnx.save(to_onnx(net, torch.zeros(1, width)), tmp_path / f"{name}.onnx")
    same = {"one": tmp_path / "small.onnx", "two": tmp_path / "small.onnx"}
    found = compare_latency(same, torch.zeros(1, 8), runs=20)
    assert (found.threads, found.batch, found.runs) == (1, 1, 20)
    assert [row.name for row in found.rows] == ["one", "two"]
    assert found.rows[0].ratio == 1.0
    for row in found.rows:
        assert 0 < row.low_ms <= row.median_ms <= row.high_ms
    found.to_json(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text("utf-8")) == found.to_dict()
