"""Tensors by name in files: safetensors in and out, .npz in; nothing is unpickled."""

import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from qdq.data.batches import first_line
from qdq.errors import InputError
from qdq.records.base import written_whole


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; InputError if it is none."""
    if not Path(path).is_file():
        raise InputError("there is no such file", at=str(path), fix="check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:
        raise InputError(
            f"this is no safetensors file: {error}",
            at=str(path),
            fix="save weights with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Float weights by name, of a safetensors file or of a .npz; halves are widened to float32.

    Raises:
        InputError: no such file, or none that holds weights.
    """
    if Path(path).suffix != ".npz":
        return read_tensors(path)[0]
    if not Path(path).is_file():
        raise InputError("there is no such file", at=str(path), fix="check the path")
    try:
        with np.load(path, allow_pickle=False) as pack:
            arrays = {name: pack[name] for name in pack.files}
        halves = {name: each for name, each in arrays.items() if each.dtype == np.float16}
        arrays |= {name: each.astype(np.float32) for name, each in halves.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except Exception as error:
        raise InputError(
            f"this .npz holds no weights: {first_line(error)}",
            at=str(path),
            fix="save weights with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; equal tensors give equal bytes."""
    own = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    content = safetensors.torch.save(own, metadata)
    with written_whole(Path(path)) as temporary:
        temporary.write_bytes(content)


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], *, at: str) -> None:
    """`load_state_dict`, strictly, after a check that cannot leave the model half loaded.

    Only the counters of BatchNorms, which eval mode never reads, may be missing.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.
    """
    wanted = model.state_dict()
    ranges = {name for name in tensors if name.endswith(("._amin", "._amax"))}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(tensors) - counters)
    extra = sorted(set(tensors) - set(wanted) - ranges)
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(held.shape)} in the model"
        for name, held in wanted.items()
        if name in tensors and name not in ranges and tensors[name].shape != held.shape
    ]
    for what, names in (("lacks", missing), ("has besides the model's own", extra), ("", shapes)):
        if names:
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            raise InputError(
                f"the weights do not fit this {type(model).__name__}: "
                + (f"the file {what} {shown}" if what else shown),
                at=at,
                fix="use the weights of this architecture",
            )
    model.load_state_dict({name: wanted[name] for name in counters} | tensors, strict=True)
