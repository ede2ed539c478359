"""What `--data` names, for commands that feed an ONNX file: arrays in files, or a function."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qdq.errors import InputError


def batches_of(data: str, batch_size: int) -> Iterable[Any]:
    """Batches of inputs.

    Args:
        data: a .npy, an .npz, a folder of them, or module:function.
        batch_size: rows a batch.

    Raises:
        InputError: a batch of no rows, or nothing of that name.
    """
    from qdq.graph.quantizing.arrays import ArrayFiles

    if batch_size < 1:
        raise InputError(f"batches of {batch_size} rows", fix="pass --batch-size 1 or more")
    if ":" not in data or Path(data).exists():
        return ArrayFiles(Path(data), batch_size)
    from qdq.data.sources import call_named

    return _inputs(call_named(data, "train", batch_size, what="data"))


def _inputs(batches: Iterable[object]) -> Iterator[object]:
    """The inputs of batches that may have labels beside them."""
    for batch in batches:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch
