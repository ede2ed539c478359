"""What is simulated: operators that compute on codes, by (domain, op type), and how they are told.

A kernel takes a node's attributes and inputs (None where one is left out) and gives its one output;
None where this node is of a form that it does not know.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from qdq.graph.edges import Array
from qdq.registry import Registry

Attributes: TypeAlias = Mapping[str, Any]
Inputs: TypeAlias = Sequence[Array | None]
Kernel: TypeAlias = Callable[[Attributes, Inputs], Array | None]

MICROSOFT = "com.microsoft"
KERNELS: Registry[tuple[str, str], Kernel] = Registry("simulated operator")


def first(inputs: Inputs, count: int) -> list[Array]:
    """The inputs that an operator cannot do without."""
    return [np.asarray(each) for each in inputs[:count]]


def optional(inputs: Inputs, index: int) -> Array | None:
    """An input that may be left out."""
    return inputs[index] if index < len(inputs) else None
