"""Layer by layer on real weights: torch's simulation against onnxruntime's integer kernels."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from torch import nn

from models.resnet import resnet20
from qdq.calibration.choosing import calibrate
from qdq.data.opening import open_source
from qdq.data.sources import Request
from qdq.export.writing import export_onnx
from qdq.graph.speed import PASSES
from qdq.insertion.replacing import insert
from qdq.insertion.weights import load_tensors, read_weights
from qdq.nn import QuantConv2d

DATA = Path(os.environ.get("QDQ_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "cifar10" / "weights" / "resnet20.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="QDQ_DATA holds no ResNet-20")


def prepared() -> tuple[nn.Module, torch.Tensor]:
    model = resnet20()
    load_tensors(model, read_weights(WEIGHTS), at=str(WEIGHTS))
    model.eval()
    request = Request(split="train", batch_size=64, path=str(DATA), mean=MEAN, std=STD)
    train = open_source("cifar10", request)
    images = next(iter(train))[0]
    insert(model, images, target="onnxruntime")
    calibrate(model, train, method="percentile", batches=2, progress=False)
    return model, images


def layer_file(graph: gs.Graph, node: gs.Node) -> tuple[onnx.ModelProto, str, gs.Node] | None:
    """DQ -> layer -> Q alone; the tensor of codes it reads, and its Q. None without a Q."""
    reader = node.outputs[0].outputs[0]
    if reader.op == "Relu":
        reader = reader.outputs[0].outputs[0]
    if reader.op != "QuantizeLinear":
        return None
    codes = node.inputs[0].inputs[0].inputs[0]
    model = gs.export_onnx(graph)
    picked = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    return picked.extract_model([codes.name], [reader.outputs[0].name]), codes.name, reader


def test_fed_the_same_codes_each_layer_gives_the_same_codes(tmp_path: Path) -> None:
    model, images = prepared()
    export_onnx(model, images, tmp_path / "m.onnx", skip_passes=PASSES)
    graph = gs.import_onnx(onnx.load(tmp_path / "m.onnx"))
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d):
            module.register_forward_hook(
                lambda _m, args, out, name=name: seen.__setitem__(name, (args[0], out))
            )
    with torch.no_grad():
        model(images)
    compared = differing = 0
    for node in [each for each in graph.nodes if each.op == "Conv"]:
        site = node.inputs[1].name.removesuffix(".weight")
        found = layer_file(graph, node)
        if found is None or site not in seen:
            continue
        file, codes_name, quantize = found
        given, made = (tensor.numpy() for tensor in seen[site])
        feeder = node.inputs[0].inputs[0]
        scale, zero = (each.values for each in feeder.inputs[1:3])
        codes = np.clip(np.rint(given / scale) + zero, 0, 255).astype(np.uint8)
        session = onnxruntime.InferenceSession(
            file.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        ours = session.run(None, {codes_name: codes})[0].astype(np.int64)
        scale, zero = (each.values for each in quantize.inputs[1:3])
        theirs = np.clip(np.rint(made / scale) + zero, 0, 255).astype(np.int64)
        steps = np.abs(ours - theirs)
        assert steps.max() <= 1, site
        compared, differing = compared + steps.size, differing + int((steps > 0).sum())
    assert compared > 10_000_000
    assert differing / compared <= 1e-5, f"{differing} of {compared}"
