"""What onnxruntime's CPU provider executes of a Q/DQ file: integers, or float between pairs."""

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from tests.checking.qdq_graph import DQ, Graph, Q
from tests.checking.violation import label

INTEGER = frozenset({
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearAdd", "QLinearMul",
    "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid",
    "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean", "QLinearWhere", "MatMulInteger",
    "ConvInteger", "DynamicQuantizeMatMul", "QAttention",
})  # fmt: skip

FLOAT_LAYERS = frozenset(
    {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}
)


@dataclass(frozen=True)
class Executed:
    """The graph that runs.

    Attributes:
        integer: operators that compute in integers, and how many of each.
        between_pairs: float operators all of whose changing inputs are dequantized and whose
            output is quantized again, by operator and output.
        float_layers: products of float factors that were both dequantized.
    """

    integer: dict[str, int]
    between_pairs: list[str]
    float_layers: list[str]


def executed(path: str | os.PathLike[str]) -> Executed:
    """Let onnxruntime optimize a file (level EXTENDED) and read what it made of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = Graph(onnx.load(written))
    between, layers = [], []
    for node in graph.nodes:
        moving = graph.moving(node)
        if node.op_type in (Q, DQ) or not moving:
            continue
        behind = [use.op for name in node.output for use in graph.uses(name)]
        if Q in behind and all(graph.dq(name) is not None for name in moving):
            between.append(label(node))
        factors = [graph.dq(name) is not None for name in node.input[:2]]
        if node.op_type in FLOAT_LAYERS and len(factors) == 2 and all(factors):
            layers.append(label(node))
    counts = Counter(node.op_type for node in graph.nodes if node.op_type in INTEGER)
    return Executed(dict(sorted(counts.items())), between, layers)
