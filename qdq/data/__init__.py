"""Batches -> (inputs, target), calling a model with them, and where they come from."""

from qdq.data.batches import (
    Batch,
    Inputs,
    Window,
    call,
    device_of,
    length,
    numbered,
    read,
    rows_of,
    take_apart,
    tensors_of,
    to_device,
)

__all__ = [
    "Batch",
    "Inputs",
    "Window",
    "call",
    "device_of",
    "length",
    "numbered",
    "read",
    "rows_of",
    "take_apart",
    "tensors_of",
    "to_device",
]
