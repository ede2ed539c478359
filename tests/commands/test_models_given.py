"""What several commands begin with: the inputs that --data names."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qdq.commands.models import example_inputs
from qdq.errors import InputError


def test_a_file_a_folder_and_a_function_give_their_first_row(tmp_path: Path) -> None:
    images = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "both.npz", images=images, labels=np.zeros(2, np.int64))
    for name in ("images.npy", "both.npz"):
        found = example_inputs([], str(tmp_path / name))
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found, images[None, :1] / 255, rtol=1e-6)
    found = example_inputs([], "test_models_given:batches")
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [[1.0]]


def batches(split: str, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    assert (split, size) == ("train", 1)
    return [(torch.ones(size, 1), torch.zeros(size)), (torch.zeros(size, 1), torch.zeros(size))]


def test_a_folder_of_images_by_class_gives_an_image(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are decoded by Pillow: extra 'demo'")
    (tmp_path / "cat").mkdir()
    image.new("RGB", (6, 5), (255, 0, 0)).save(tmp_path / "cat" / "0.png")
    found = example_inputs([], str(tmp_path))
    assert isinstance(found, torch.Tensor)
    assert tuple(found.shape) == (1, 3, 5, 6)
    assert found[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("nowhere.npz", "there is no such file\n  at:  nowhere.npz\n  fix: check --data"),
        (
            "test_models_given:nothing",
            "data 'test_models_given:nothing' does not import: AttributeError",
        ),
        ("test_models_given:no_batches", "the data holds no batch"),
    ],
)
def test_data_that_cannot_be_read_is_refused(data: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        example_inputs([], data)
    assert str(caught.value).startswith(said)


def no_batches(split: str, size: int) -> list[object]:
    return []
