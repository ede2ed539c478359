"""Files to explain: exported nets, and small graphs written down."""

import atexit
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import qdq
from models.lenet import lenet_digits
from models.mobilenetv2 import mobilenet_v2
from models.resnet import resnet20
from models.senet import senet
from models.transformer import TransformerClassifier
from models.unet import unet
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.records.explanation import ExplanationReport, NodeRow
from tests.export.export_nets import NETS, example, prepared
from tests.graph.graph_sketch import Sketch, written

_FOLDER = Path(mkdtemp(prefix="explained"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(0))


ZOO: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "lenet": (lenet_digits, image(1, 1, 32, 32)),
    "resnet20": (resnet20, image(1, 3, 16, 16)),
    "mobilenet_v2": (lambda: mobilenet_v2(10, 0.25), image(1, 3, 32, 32)),
    "senet": (lambda: senet(10, 0.25), image(1, 3, 32, 32)),
    "unet": (lambda: unet(width=4), image(1, 3, 32, 32)),
    "transformer": (lambda: TransformerClassifier(11, width=16), tokens(2, 5)),
}
TARGETS = ("onnxruntime", "tensorrt", "float")


@cache
def exported(name: str, target: str) -> Path:
    """A net of the zoo or of the tiny ones, written once for a target, or as float."""
    path = _FOLDER / f"{name}.{target}.onnx"
    torch.manual_seed(0)
    if target == "float":
        model, x = (ZOO[name][0]().eval(), ZOO[name][1]) if name in ZOO else (None, None)
        assert model is not None
        path.write_bytes(to_onnx(model, x, opset=17).SerializeToString())
        return path
    if name in NETS:
        export_onnx(prepared(name, target), example(name), path, target=target)
        return path
    build, x = ZOO[name]
    model = build().eval()
    qdq.insert(model, x, target=target)
    qdq.calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, path, target=target)
    return path


def file_of(graph: gs.Graph | Any, folder: Path, name: str = "m.onnx") -> Path:
    """A sketched graph in a file."""
    path = folder / name
    path.write_bytes(written(graph) if isinstance(graph, gs.Graph) else graph.SerializeToString())
    return path


def relu_net(zero_point: int, kind: type) -> gs.Graph:
    draw = Sketch(1, 8, 6, 6)
    x = draw.pair(draw.x, "in", kind=np.uint8)
    layer = draw.integer_conv(x, 8, 8, 3, 3)
    return draw.done(draw.pair(draw.node("Relu", layer), "y", 0.1, zero_point, kind))


def model_of(
    nodes: list[onnx.NodeProto], *held: onnx.TensorProto, opset: int = 13
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], list(held))
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def row(report: ExplanationReport, name: str) -> NodeRow:
    return next(each for each in report.rows if each.name == name)


def fates(report: ExplanationReport) -> dict[str, str]:
    return {each.op: each.fate for each in report.rows if "Linear" not in each.op}
