"""What a command line says to call a model with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qdq.data.examples import first_inputs, names_source, zeros
from qdq.errors import InputError


def test_a_shape_is_one_tensor_of_zeros_and_several_are_a_tuple() -> None:
    one = zeros(["1,3,4"])
    assert isinstance(one, torch.Tensor)
    assert torch.equal(one, torch.zeros(1, 3, 4))
    several = zeros(["2", " 1 , 3"])
    assert isinstance(several, tuple)
    assert [tuple(each.shape) for each in several] == [(2,), (1, 3)]


@pytest.mark.parametrize(
    "text", ["", "1,x", "1,,2", "0,3", "-1,3", "1x3", "99999999,99999999,9999", "9" * 30]
)
def test_a_text_that_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        zeros([text])
    assert str(caught.value) == (
        f"{text!r} is no shape of an input\n"
        "  fix: write whole numbers from 1, with commas: 1,3,224,224"
    )


def test_a_file_a_folder_and_a_function_give_their_first_row(tmp_path: Path) -> None:
    images = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "both.npz", images=images, labels=np.zeros(2, np.int64))
    for name in ("images.npy", "both.npz"):
        found = first_inputs(str(tmp_path / name))
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found, images[None, :1] / 255, rtol=1e-6)
    found = first_inputs("test_examples:batches")
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [[1.0]]


def batches(split: str, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    assert (split, size) == ("train", 1)
    return [(torch.ones(size, 1), torch.zeros(size)), (torch.zeros(size, 1), torch.zeros(size))]


def test_a_folder_of_images_by_class_gives_an_image(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are decoded by Pillow: extra 'demo'")
    (tmp_path / "cat").mkdir()
    image.new("RGB", (6, 5), (255, 0, 0)).save(tmp_path / "cat" / "0.png")
    found = first_inputs(str(tmp_path))
    assert isinstance(found, torch.Tensor)
    assert tuple(found.shape) == (1, 3, 5, 6)
    assert found[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("nowhere.npz", "there is no such file\n  at:  nowhere.npz\n  fix: check --data"),
        ("test_examples:nothing", "data 'test_examples:nothing' does not import: AttributeError"),
        ("test_examples:no_batches", "the data holds no batch"),
    ],
)
def test_data_that_cannot_be_read_is_refused(data: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        first_inputs(data)
    assert str(caught.value).startswith(said)


def no_batches(split: str, size: int) -> list[object]:
    return []


def test_a_kind_and_a_function_name_a_source_and_a_path_does_not() -> None:
    assert names_source("digits")
    assert names_source("my.data:batches")
    assert not names_source("data/digits")
    assert not names_source("digits.npz")
