"""What a command line says about inputs: shapes, and where data comes from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qdq.data.batches import Inputs
from qdq.data.opening import SOURCES
from qdq.errors import InputError


def zeros(shapes: Sequence[str]) -> Inputs:
    """Zeros, one tensor per shape; a tuple of them where there are several.

    Args:
        shapes: texts like "1,3,224,224", at least one.

    Returns:
        float32 tensors of these shapes.

    Raises:
        InputError: a text that is no shape, or one of more than memory holds.
    """
    inputs = tuple(_zeros(shape) for shape in shapes)
    return inputs[0] if len(inputs) == 1 else inputs


def _zeros(shape: str) -> Tensor:
    try:
        sizes = [int(size) for size in shape.split(",")]
        if min(sizes) < 1:
            raise ValueError("a size below 1")
        return torch.zeros(sizes)
    except (ValueError, TypeError, RuntimeError) as error:  # torch's own: more than memory holds
        raise InputError(
            f"{shape!r} is no shape of an input",
            fix="write whole numbers from 1, with commas: 1,3,224,224",
        ) from error


def names_source(data: str) -> bool:
    """Whether this is a kind of data or a function, and no place in the file system."""
    return ":" in data or data in SOURCES
