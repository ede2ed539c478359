"""The ONNX file: reading and writing it, passes over it, and judging anyone's. No torch.

The names in `__all__` are public; each loads its module when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdq.graph.benching.comparison import bench
    from qdq.graph.differing.difference import diff
    from qdq.graph.explaining.engines import explain_engine
    from qdq.graph.explaining.explanation import explain
    from qdq.graph.linting.judging import lint
    from qdq.graph.quantizing.quantization import quantize
    from qdq.graph.retargeting.rewriting import retarget
    from qdq.graph.simulation.comparison import simulate

_HOMES = {
    "bench": "qdq.graph.benching.comparison",
    "diff": "qdq.graph.differing.difference",
    "explain": "qdq.graph.explaining.explanation",
    "explain_engine": "qdq.graph.explaining.engines",
    "lint": "qdq.graph.linting.judging",
    "quantize": "qdq.graph.quantizing.quantization",
    "retarget": "qdq.graph.retargeting.rewriting",
    "simulate": "qdq.graph.simulation.comparison",
}

__all__ = ["bench", "diff", "explain", "explain_engine", "lint", "quantize", "retarget", "simulate"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'qdq.graph' has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found
