"""Where a model lives leaves no trace in its file."""

import copy
from pathlib import Path

import pytest
import torch
from export_nets import example, prepared

from qdq.export.writing import export_onnx


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", ["downsample_skip", "linear_on_sequences"])
def test_on_cuda_the_same_ranges_give_the_same_file(
    tmp_path: Path, name: str, target: str, opset: int
) -> None:
    model, x = prepared(name, target), example(name)
    assert isinstance(x, torch.Tensor)
    export_onnx(model, x, tmp_path / "cpu.onnx", opset=opset)
    export_onnx(copy.deepcopy(model).cuda(), x.cuda(), tmp_path / "cuda.onnx", opset=opset)
    assert (tmp_path / "cpu.onnx").read_bytes() == (tmp_path / "cuda.onnx").read_bytes()
    assert {each.device.type for each in model.parameters()} == {"cpu"}


def test_a_model_that_has_to_be_copied_is_left_as_it_was(tmp_path: Path) -> None:
    model, x = prepared("mlp").bfloat16(), example("mlp")
    before = {name: each.clone() for name, each in model.state_dict().items()}
    report = export_onnx(model, x, tmp_path / "m.onnx")
    assert report.rows
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
