"""Batches of arrays as they lie on disk: .npy, .npz, or a folder of them; nothing is unpickled."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdq.errors import InputError, first_line
from qdq.graph.quantizing.feeding import ROWS, Array

_LARGEST = 1 << 34  # bytes that one .npz may unpack to
_SUFFIXES = (".npy", ".npz")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class ArrayFiles:
    """The rows of one file, or of all files of a folder in the order of their names, in batches.

    A .npy holds the rows of the only input; it is not read into memory as a whole. A .npz holds an
    array for every input, by its name; those of equal length are cut into batches of rows, others
    make one batch.

    Attributes:
        path: .npy, .npz or a folder of such.
        rows: in a batch, at most.
    """

    path: Path
    rows: int = ROWS

    def __iter__(self) -> Iterator[Array | Mapping[str, Array]]:
        for file in self._files():
            try:
                yield from self._batches(file)
            except _UNREADABLE as error:
                raise InputError(
                    f"this is no {file.suffix} of plain arrays: {first_line(error)}",
                    at=str(file),
                    fix="write it with numpy.save(path, rows) or numpy.savez(path, name=rows)",
                ) from error

    def _files(self) -> list[Path]:
        if self.path.is_dir():
            found = sorted(each for each in self.path.iterdir() if each.suffix in _SUFFIXES)
        else:
            found = [self.path] if self.path.is_file() and self.path.suffix in _SUFFIXES else []
        if not found:
            raise InputError(
                "there is no .npy and no .npz here",
                at=str(self.path),
                fix="name such a file, or a folder that holds some",
            )
        return found

    def _batches(self, file: Path) -> Iterator[Array | Mapping[str, Array]]:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if not array.ndim:
                raise ValueError("it holds one number and no rows")
            for rows in self._slices(len(array)):
                yield np.array(array[rows])
            return
        arrays = _unpacked(file)
        lengths = {len(each) if each.ndim else None for each in arrays.values()}
        length = lengths.pop() if len(lengths) == 1 else None
        if length is None:
            yield arrays
            return
        for rows in self._slices(length):
            yield {name: each[rows] for name, each in arrays.items()}

    def _slices(self, length: int) -> Iterator[slice]:
        return (slice(start, start + self.rows) for start in range(0, length, self.rows))


def _unpacked(file: Path) -> dict[str, Array]:
    with file.open("rb") as opened, zipfile.ZipFile(opened) as pack:
        size = sum(each.file_size for each in pack.infolist())
    if size > _LARGEST:
        raise ValueError(f"it unpacks to {size:,} bytes; more than {_LARGEST:,} are not read")
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
