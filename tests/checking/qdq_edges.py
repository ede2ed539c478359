"""Does a Q/DQ file follow the rules of its runtime? Written apart from what places the pairs.

The rules are those of TensorRT's documents and of onnxruntime's CPU provider as executed; nothing
here imports qdq.
"""

import os
from collections import Counter
from typing import Literal

import onnx

from tests.checking import (
    onnxruntime_kernels,
    onnxruntime_pairs,
    tensorrt_blocks,
    tensorrt_numbers,
    tensorrt_placement,
)
from tests.checking.qdq_graph import MOVERS, WEIGHTED, Graph
from tests.checking.quantized_weights import constant_weights
from tests.checking.violation import Violation, label

CHECKS = {
    "tensorrt": tensorrt_numbers.CHECKS + tensorrt_placement.CHECKS + tensorrt_blocks.CHECKS,
    "onnxruntime": onnxruntime_kernels.CHECKS + onnxruntime_pairs.CHECKS,
}


def violations(
    file: onnx.ModelProto | str | os.PathLike[str],
    target: Literal["tensorrt", "onnxruntime"],
    *,
    small_layers: bool = False,
) -> list[Violation]:
    """Every broken rule of a file, sorted by rule.

    Args:
        file: a Q/DQ model, or where it is.
        target: the runtime it is made for.
        small_layers: for TensorRT, also layers too small to gain from int8 (T18, T19).
    """
    graph = _graph(file)
    checks = CHECKS[target]
    if small_layers and target == "tensorrt":
        checks += tensorrt_blocks.SMALL_LAYERS
    return sorted({violation for check in checks for violation in check(graph)})


def quantized_layers(file: onnx.ModelProto | str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """Per operator with weights: (how many read int8 on all sides, how many there are)."""
    graph = _graph(file)
    whole: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for node in graph.of(*WEIGHTED):
        count[node.op_type] += 1
        whole[node.op_type] += _reads_int8(graph, node)
    return {op: (whole[op], count[op]) for op in sorted(count)}


def missed_layers(
    file: onnx.ModelProto | str | os.PathLike[str], target: Literal["tensorrt", "onnxruntime"]
) -> list[str]:
    """Layers with constant weights that are float although no rule says so.

    A file without a single pair breaks no rule; this says what a placement has overlooked. The
    rules that excuse a layer are T18 and T19 (too small) and O14 (ConvTranspose).
    """
    graph = _graph(file)
    return [
        label(node)
        for node in graph.of(*WEIGHTED)
        if constant_weights(graph, node)
        and not _reads_int8(graph, node)
        and not (target == "tensorrt" and tensorrt_blocks.is_small(graph, node))
        and not (target == "onnxruntime" and node.op_type == "ConvTranspose")
    ]


def _graph(file: onnx.ModelProto | str | os.PathLike[str]) -> Graph:
    return Graph(file if isinstance(file, onnx.ModelProto) else onnx.load(file))


def _reads_int8(graph: Graph, node: onnx.NodeProto) -> bool:
    return all(graph.dq(name, MOVERS) is not None for name in node.input[:2])
