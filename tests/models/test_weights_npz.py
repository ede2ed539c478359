"""Weights in .npz: numbers become float32, notes are left out, pickles are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.weights import read_npz


def test_every_numeric_array_becomes_a_float32_tensor_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights.npz"
    half = np.array([[0.5, -2.0]], np.float16)
    np.savez(path, second=half, first=np.float64(3.0), _order=np.array(["second", "first"]))
    tensors = read_npz(path)
    assert list(tensors) == ["second", "first"]
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert torch.equal(tensors["second"], torch.tensor([[0.5, -2.0]]))
    assert tensors["first"].shape == ()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, objects=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(path)
