"""The ONNX file: reading and writing it, passes over it, and judging anyone's. No torch.

The names in `__all__` are public; each loads its module when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdq.graph.differing.difference import diff
    from qdq.graph.explaining.explanation import explain
    from qdq.graph.linting.judging import lint

_HOMES = {
    "diff": "qdq.graph.differing.difference",
    "explain": "qdq.graph.explaining.explanation",
    "lint": "qdq.graph.linting.judging",
}

__all__ = ["diff", "explain", "lint"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'qdq.graph' has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found
