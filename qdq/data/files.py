"""Arrays as they lie on disk, read without trusting them: .npz, .npy, and MNIST's idx."""

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from qdq.data.batches import first_line
from qdq.errors import InputError

_LARGEST_IDX = 1 << 30  # bytes, unpacked
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path, keys: Sequence[str]) -> list[NDArray[Any]]:
    """Arrays of a .npz; pickled ones are refused."""
    _require(path)
    try:
        with path.open("rb") as file:  # of a broken file numpy forgets to close its own
            pack = np.load(file, allow_pickle=False)
            if not isinstance(pack, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with pack:
                return [pack[key] for key in keys]
    except _UNREADABLE as error:
        raise InputError(
            f"this is no .npz with {' and '.join(keys)}: {first_line(error)}",
            at=str(path),
            fix="write it with np.savez(path, " + ", ".join(f"{key}=..." for key in keys) + ")",
        ) from error


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy; a pickled one is refused."""
    _require(path)
    try:
        return np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except _UNREADABLE as error:
        raise InputError(
            f"this is no .npy: {first_line(error)}",
            at=str(path),
            fix="write it with np.save(path, images)",
        ) from error


def _require(path: Path) -> None:
    if not path.is_file():
        raise InputError("there is no such file", at=str(path), fix="check --data")


def read_idx(folder: Path, name: str, rank: int) -> NDArray[np.uint8]:
    """One of MNIST's original files, gzipped or not: magic number, sizes, bytes."""
    plain, zipped = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else zipped
    if not path.is_file():
        raise InputError(
            f"there is neither {name} nor {name}.gz here",
            at=str(folder),
            fix="point --data at the folder with MNIST's files",
        )
    try:
        with gzip.open(path) if path == zipped else path.open("rb") as file:
            return _checked(cast(BinaryIO, file), rank)
    except _UNREADABLE as error:
        raise InputError(
            f"this is no idx file of MNIST: {first_line(error)}", at=str(path), fix="get it anew"
        ) from error


def _checked(file: BinaryIO, rank: int) -> NDArray[np.uint8]:
    """What the header claims and no byte more: the rest of the file may be endless."""
    header = file.read(4 + 4 * rank)
    if len(header) < 4 + 4 * rank:
        raise ValueError("it ends within its header")
    magic, *shape = np.frombuffer(header, ">i4").tolist()
    if magic != 0x800 + rank:
        raise ValueError(f"its magic number is {magic}")
    claimed = math.prod(shape)
    if min(shape) < 0 or claimed > _LARGEST_IDX:
        raise ValueError(f"it claims to hold {shape}")
    content = file.read(claimed + 1)
    if len(content) != claimed:
        held = "more" if len(content) > claimed else len(content)
        raise ValueError(f"it claims to hold {claimed} bytes and holds {held}")
    return np.frombuffer(content, np.uint8).reshape(shape)
