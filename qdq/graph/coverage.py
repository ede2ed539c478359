"""What onnxruntime's CPU provider makes of a file: which layers really run in integers."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from qdq.errors import GraphError

_INTEGER = frozenset(
    {
        "QLinearConv",
        "QGemm",
        "QLinearMatMul",
        "MatMulIntegerToFloat",
        "MatMulInteger",
        "ConvInteger",
        "DynamicQuantizeMatMul",
    }
)
_FLOAT = frozenset(
    {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}
)


def optimized_ops(path: str | os.PathLike[str]) -> dict[str, int]:
    """How often each op type stands in the graph that onnxruntime executes.

    Raises:
        GraphError: onnxruntime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise GraphError(
                f"onnxruntime refuses this file: {str(error).splitlines()[0]}",
                at=str(path),
                fix="export it again, or read the message above",
            ) from error
        graph = onnx.load(written, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def integer_layers(ops: dict[str, int]) -> tuple[int, int]:
    """(layers with weights that run in integers, all layers with weights).

    Args:
        ops: as `optimized_ops` gives them.
    """
    integer = sum(count for op, count in ops.items() if op in _INTEGER)
    return integer, integer + sum(count for op, count in ops.items() if op in _FLOAT)
