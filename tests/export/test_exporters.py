"""Quantizers in torch.export, in both of torch's ways to ONNX, and under DDP."""

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import qdq

IMAGES = torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(3))


class Gated(nn.Module):
    """A residual block, a gate, a product with a weight of its own: layers and calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.table = nn.Parameter(torch.randn(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x) + x)
        x = x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return x.mean((2, 3)) @ self.table


def quantized(target: str) -> nn.Module:
    torch.manual_seed(0)
    model = Gated().eval()
    qdq.insert(model, IMAGES, target=target)
    qdq.calibrate(model, [IMAGES], method="max", progress=False)
    return model


def active(model: nn.Module) -> int:
    return sum(quantizer.on for quantizer in qdq.quantizers(model).values())


# Equal pairs on one tensor, conv.input and the skip of the sum, which torch's optimizer merges.
MERGED = {"tensorrt": 1, "onnxruntime": 2}
TARGETS = pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])


@TARGETS
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_computes_what_the_model_simulates(target: str, strict: bool) -> None:
    model = quantized(target)
    program = torch.export.export(model, (IMAGES,), strict=strict)
    assert torch.equal(program.module()(IMAGES), model(IMAGES))
    with qdq.disable_quantization(model):
        assert not torch.equal(program.module()(IMAGES), model(IMAGES))


@TARGETS
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.parametrize("dynamo", [False, True])
def test_plain_export_writes_a_pair_for_every_active_site(
    target: str, dynamo: bool, tmp_path: Path
) -> None:
    model, path = quantized(target), tmp_path / "plain.onnx"
    options = {} if dynamo else {"opset_version": 13}
    torch.onnx.export(model, (IMAGES,), path, dynamo=dynamo, verbose=False, **options)  # type: ignore[arg-type]
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    merged = MERGED[target] if dynamo else 0
    assert ops["DequantizeLinear"] == active(model) - merged
    assert not ops.keys() & {"Round", "Clip"}
    session_options = ort.SessionOptions()
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    # No operator quantizes a bias to int32, so that plain export leaves it float.
    np.testing.assert_allclose(found, model(IMAGES).detach(), atol=2e-3)


@pytest.fixture
def alone(tmp_path: Path) -> object:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_under_ddp_outputs_and_gradients_are_those_of_the_model(alone: object) -> None:
    model = quantized("onnxruntime")
    parallel = DistributedDataParallel(copy.deepcopy(model))
    for each in (model, parallel):
        each(IMAGES).square().sum().backward()
    assert torch.equal(parallel(IMAGES), model(IMAGES))
    gradients = dict(parallel.module.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(gradients[name].grad, parameter.grad), name  # type: ignore[arg-type]
