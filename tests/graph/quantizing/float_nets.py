"""Float ONNX nets of a few nodes with drawn weights, written node by node; and data for them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Feed = dict[str, Array]


class FloatNet:
    """A graph under construction: every method gives the name of the tensor it made."""

    def __init__(self, *shape: int | str, opset: int = 13, dtype: int = TensorProto.FLOAT) -> None:
        self.rng, self.opset = np.random.default_rng(0), opset
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)]

    def input(self, name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def hold(self, values: Any, name: str = "") -> str:
        name = name or f"c{len(self.held)}"
        self.held.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def draw(self, *shape: int, scale: float = 0.3) -> Array:
        return np.asarray(self.rng.standard_normal(shape) * scale, np.float32)

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        made = f"t{len(self.nodes)}"
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [made], name=name, **attributes))
        return made

    def conv(self, x: str, out: int, into: int, size: int = 3, **attributes: Any) -> str:
        weight = self.hold(self.draw(out, into, size, size))
        pads = [size // 2] * 4
        return self.op("Conv", x, weight, self.hold(self.draw(out)), pads=pads, **attributes)

    def norm(self, x: str, channels: int) -> str:
        rng = self.rng
        parts = [rng.uniform(0.5, 2, channels), *rng.standard_normal((2, channels))]
        parts.append(rng.uniform(0.5, 2, channels))
        held = [self.hold(part.astype(np.float32)) for part in parts]
        return self.op("BatchNormalization", x, *held)

    def linear(self, x: str, out: int, into: int) -> str:
        held = self.hold(self.draw(out, into)), self.hold(self.draw(out))
        return self.op("Gemm", x, *held, transB=1)

    def model(self, *outputs: str, rank: int | None = None) -> onnx.ModelProto:
        shape = None if rank is None else [None] * rank
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "tiny", self.inputs, results, self.held)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def residual_net(opset: int = 13, batch: int | str = "batch") -> onnx.ModelProto:
    """x (N, 3, 8, 8) -> stem, a residual block with BatchNormalizations, a pool, 4 classes."""
    net = FloatNet(batch, 3, 8, 8, opset=opset)
    stem = net.op("Relu", net.norm(net.conv("x", 16, 3), 16))
    inner = net.op("Relu", net.norm(net.conv(stem, 16, 16), 16))
    total = net.op("Relu", net.op("Add", net.norm(net.conv(inner, 16, 16), 16), stem))
    flat = net.op("Flatten", net.op("GlobalAveragePool", total))
    return net.model(net.linear(flat, 4, 16), rank=2)


def images(count: int = 8, *shape: int, seed: int = 1) -> Array:
    """(count, *shape) float32, standard normal; (3, 8, 8) where nothing is said."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *(shape or (3, 8, 8)))).astype(np.float32)


def saved(model: onnx.ModelProto, folder: Path, name: str = "float.onnx") -> Path:
    """Where the model lies."""
    onnx.save(model, folder / name)
    return folder / name


def run(model: onnx.ModelProto | Path, feed: Feed) -> list[Array]:
    """All outputs, in onnxruntime."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, feed)]
