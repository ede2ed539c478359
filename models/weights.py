"""Reading weights that come as .npz."""

import os

import numpy as np
import torch
from torch import Tensor


def read_npz(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The numeric arrays of a .npz file as float32 tensors, in the order of the file.

    Half precision is widened; arrays of text, notes of whoever wrote the file, are left out.
    Nothing is unpickled.

    Args:
        path: A file as `numpy.savez` writes it.

    Raises:
        OSError: The file cannot be read.
        ValueError: An array holds Python objects, which would have to be unpickled.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return {
        name: torch.from_numpy(array.astype(np.float32))
        for name, array in arrays.items()
        if array.dtype.kind not in "US"
    }
