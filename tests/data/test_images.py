"""Image data of every kind: what comes out against numpy and Pillow, and what is refused."""

import gzip
import io
import os
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdq.data import numbered, take_apart
from qdq.data.images import ImageBatches, decode
from qdq.data.opening import open_source
from qdq.data.sources import Request
from qdq.errors import InputError

Image = pytest.importorskip("PIL.Image")

GENERATOR = np.random.default_rng(0)
COLOR = GENERATOR.integers(0, 256, (10, 6, 5, 3), np.uint8)
GRAY = GENERATOR.integers(0, 256, (10, 28, 28), np.uint8)
LABELS = GENERATOR.integers(0, 1000, 10)
PACKS = {
    ("cifar10", "test"): "cifar10_test_jpeg.npz",
    ("cifar10", "train"): "cifar10_train10k_jpeg.npz",
    ("imagenet", "test"): "imagenet1k_one_per_class_224_q90.npz",
    ("imagenet", "train"): "imagenet1k_one_per_class_224_q90.npz",
}


@pytest.fixture(autouse=True)
def no_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDQ_DATA", raising=False)


def encoded(image: Any, form: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def opened(kind: str, path: object, split: str = "test", size: int = 4, **wanted: Any) -> Any:
    return open_source(kind, Request(split=split, batch_size=size, path=str(path), **wanted))


def gathered(data: Any) -> tuple[np.ndarray, np.ndarray]:
    batches = list(data)
    assert len(batches) == len(data)
    for x, y in batches:
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert x.is_contiguous()
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def refused(kind: str, path: object, **wanted: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(opened(kind, path, **wanted))
    return str(caught.value)


def expected(images: np.ndarray) -> np.ndarray:
    wide = images.astype(np.float32) / np.float32(255)
    return wide[:, None] if images.ndim == 3 else np.moveaxis(wide, 3, 1)


def packed(images: list[bytes], labels: Any = LABELS, **other: Any) -> dict[str, Any]:
    offsets = np.cumsum([0, *map(len, images)])
    blob = np.frombuffer(b"".join(images), np.uint8)
    return {"blob": blob, "offsets": offsets, "labels": labels, **other}


@pytest.mark.parametrize("layout", ["in its folder", "in the root"])
@pytest.mark.parametrize(("kind", "split"), PACKS)
def test_a_pack_is_decoded_in_order(tmp_path: Path, kind: str, split: str, layout: str) -> None:
    folder = tmp_path / kind if layout == "in its folder" else tmp_path
    folder.mkdir(exist_ok=True)
    np.savez(folder / PACKS[kind, split], **packed([encoded(each) for each in COLOR]))
    step = 4 if (kind, split) == ("imagenet", "train") else 1
    images, labels = gathered(opened(kind, tmp_path, split))
    np.testing.assert_array_equal(images, expected(COLOR)[::step])
    np.testing.assert_array_equal(labels, LABELS[::step])


def test_a_pack_of_jpegs_is_what_pillow_makes_of_each(tmp_path: Path) -> None:
    files = [encoded(each, "jpeg") for each in COLOR]
    np.savez(tmp_path / PACKS["cifar10", "test"], **packed(files))
    wanted = np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in files])
    images, _ = gathered(opened("cifar10", tmp_path))
    np.testing.assert_array_equal(images, expected(wanted))
    assert not np.array_equal(images, expected(COLOR))


def test_a_missing_pack_says_which_and_where(tmp_path: Path) -> None:
    assert refused("cifar10", tmp_path) == (
        f"there is no cifar10_test_jpeg.npz here\n  at:  {tmp_path}\n"
        "  fix: point --data or QDQ_DATA at its folder"
    )


def idx(array: np.ndarray, shape: Any = None, magic: int | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    head = struct.pack(f">{1 + len(shape)}i", magic or 0x800 + len(shape), *shape)
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, form: str, split: str = "test") -> None:
    folder.mkdir(exist_ok=True)
    digits = LABELS % 10
    if form == "npz":
        np.savez(folder / f"mnist_{split}.npz", images=GRAY, labels=digits)
        return
    stem = "t10k" if split == "test" else "train"
    for name, array in (("images-idx3", GRAY), ("labels-idx1", digits)):
        path, content = folder / f"{stem}-{name}-ubyte", idx(array)
        if form == "gz":
            path = path.with_name(f"{path.name}.gz")
            content = gzip.compress(content)
        path.write_bytes(content)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("folder", [".", "mnist"])
@pytest.mark.parametrize("form", ["npz", "idx", "gz"])
def test_mnist_is_read_from_either_form(tmp_path: Path, form: str, folder: str, split: str) -> None:
    write_mnist(tmp_path / folder, form, split)
    images, labels = gathered(opened("mnist", tmp_path, split))
    np.testing.assert_array_equal(images, expected(GRAY))
    np.testing.assert_array_equal(labels, LABELS % 10)


def test_without_mnists_files_their_names_are_told(tmp_path: Path) -> None:
    assert refused("mnist", tmp_path) == (
        "there is neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz here\n"
        f"  at:  {tmp_path}\n  fix: point --data at the folder with MNIST's files"
    )


@pytest.mark.parametrize("images", [COLOR, GRAY, COLOR[..., :1], COLOR[..., :2]])
def test_arrays_come_from_one_file_or_a_folder_of_splits(
    tmp_path: Path, images: np.ndarray
) -> None:
    np.savez(tmp_path / "test.npz", images=images, labels=LABELS)
    np.savez_compressed(tmp_path / "train.npz", images=images[::2], labels=LABELS[::2])
    for path, split, step in (
        (tmp_path, "test", 1),
        (tmp_path, "train", 2),
        (tmp_path / "test.npz", "train", 1),
    ):
        found, labels = gathered(opened("arrays", path, split))
        np.testing.assert_array_equal(found, expected(images)[::step])
        np.testing.assert_array_equal(labels, LABELS[::step])


def test_a_npy_holds_images_without_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "calibration.npy", COLOR)
    data = opened("arrays", tmp_path / "calibration.npy", mean=(0.5, 0.5, 0.5))
    assert [len(batch) for batch in data] == [1, 1, 1]
    assert [take_apart(batch).target for batch in data] == [None, None, None]
    found = np.concatenate([batch[0] for batch in data])
    np.testing.assert_array_equal(found, expected(COLOR) - np.float32(0.5))


def write_folder(root: Path, images: Any = COLOR) -> None:
    for number, image in enumerate(images):
        kind = root / ("cat", "ant", "bee")[number % 3]
        kind.mkdir(parents=True, exist_ok=True)
        (kind / f"{number:03}.PNG").write_bytes(encoded(image))


ORDER = [1, 4, 7, 2, 5, 8, 0, 3, 6, 9]  # ant, bee, cat


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("with_splits", [True, False])
def test_a_folder_of_classes_is_read_in_the_order_of_names(
    tmp_path: Path, with_splits: bool, split: str
) -> None:
    write_folder(tmp_path / split if with_splits else tmp_path)
    (tmp_path / ".cache").mkdir()
    images, labels = gathered(opened("folder", tmp_path, split))
    np.testing.assert_array_equal(images, expected(COLOR)[ORDER])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_other_files_among_the_images_and_hidden_folders_are_no_images(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "readme.png").write_bytes(encoded(COLOR[0]))
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "old.png").write_bytes(encoded(COLOR[0]))
    _, labels = gathered(opened("folder", tmp_path))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (7, 9), (32, 32)])
def test_with_a_size_the_middle_square_is_cut_from_the_scaled_image(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    image = GENERATOR.integers(0, 256, (*shape, 3), np.uint8)
    size, scaled = 28, 32  # 28 * 256 / 224
    write_folder(tmp_path, [image])
    ((found, _),) = list(sized(tmp_path, size))
    ratio = scaled / min(shape)
    height, width = round(shape[0] * ratio), round(shape[1] * ratio)
    whole = np.asarray(Image.fromarray(image).resize((width, height)))
    top, left = (height - size) // 2, (width - size) // 2
    wanted = whole[None, top : top + size, left : left + size]
    np.testing.assert_array_equal(found, expected(wanted))


def sized(path: object, side: int) -> Any:
    return open_source("folder", Request(split="test", batch_size=4, path=str(path), size=side))


def test_a_size_makes_images_of_different_sizes_equal(tmp_path: Path) -> None:
    write_folder(tmp_path, [COLOR[0], COLOR[1, :4], COLOR[2, :, :3]])
    ((found, _),) = list(sized(tmp_path, 8))
    assert found.shape == (3, 3, 8, 8)


def test_images_of_different_sizes_ask_for_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path, [COLOR[0], COLOR[1, :4]])
    assert refused("folder", tmp_path) == (
        "images 0 to 1 are not all of one size\n"
        "  fix: write size = 224, or whatever the model takes, into [data]"
    )


def test_gray_and_transparent_images_of_a_folder_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    alpha = np.concatenate([COLOR[0], COLOR[1, :, :, :1]], 2)
    (tmp_path / "a" / "0.png").write_bytes(encoded(GRAY[0, :6, :5]))
    (tmp_path / "a" / "1.png").write_bytes(encoded(alpha))
    found, _ = gathered(opened("folder", tmp_path))
    wanted = np.stack([np.repeat(GRAY[0, :6, :5, None], 3, 2), COLOR[0]])
    np.testing.assert_array_equal(found, expected(wanted))


@pytest.mark.parametrize("images", [COLOR, GRAY])
@pytest.mark.parametrize("given", ["both", "mean", "std"])
def test_normalization_is_numpys(tmp_path: Path, images: np.ndarray, given: str) -> None:
    channels = 3 if images.ndim == 4 else 1
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    np.savez(tmp_path / "test.npz", images=images, labels=LABELS)
    wanted, options = expected(images), {}
    if given != "std":
        wanted = wanted - np.array(mean, np.float32)[:, None, None]
        options["mean"] = mean
    if given != "mean":
        wanted = wanted / np.array(std, np.float32)[:, None, None]
        options["std"] = std
    found, _ = gathered(opened("arrays", tmp_path, **options))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.load(tmp_path / "test.npz")["images"], images)


@pytest.mark.parametrize(
    ("size", "rows"), [(1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (99, [10])]
)
def test_batches_hold_so_many_rows_and_the_last_what_is_left(
    tmp_path: Path, size: int, rows: list[int]
) -> None:
    np.savez(tmp_path / "test.npz", images=COLOR, labels=LABELS)
    data = opened("arrays", tmp_path, size=size)
    assert [len(x) for x, _ in data] == [len(y) for _, y in data] == rows
    assert len(data) == len(rows)


def test_the_same_images_come_again_and_are_not_written_to(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=GRAY, labels=LABELS)
    data = opened("arrays", tmp_path, mean=(0.5,))
    first, _ = gathered(data)
    for x, y in data:
        x.zero_()
        y.zero_()
    again, labels = gathered(data)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(labels, LABELS)


def test_without_a_path_the_data_lies_in_qdq_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "mnist", "npz")
    monkeypatch.setenv("QDQ_DATA", str(tmp_path))
    assert len(gathered(opened("mnist", ""))[0]) == 10
    monkeypatch.setenv("QDQ_DATA", str(tmp_path / "nowhere"))
    assert len(gathered(opened("mnist", tmp_path))[0]) == 10  # a path goes before


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mine", "npz")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(gathered(opened("mnist", "~/mine"))[0]) == 10


@pytest.mark.parametrize("kind", ["cifar10", "imagenet", "mnist", "arrays", "folder"])
def test_without_any_path_the_ways_to_give_one_are_told(kind: str) -> None:
    assert refused(kind, "") == (
        "nothing says where the data is\n"
        "  fix: pass --data PATH, write path = ... into [data], or set QDQ_DATA"
    )


@pytest.mark.parametrize("split", ["val", "", "Train"])
def test_every_source_knows_train_and_test_only(split: str) -> None:
    with pytest.raises(InputError) as caught:
        Request(split=split, batch_size=1)
    assert str(caught.value) == f"no split {split!r}\n  fix: ask for 'train' or 'test'"


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_without_rows_is_refused(size: int) -> None:
    with pytest.raises(InputError) as caught:
        Request(split="test", batch_size=size)
    assert str(caught.value) == f"batches of {size} rows\n  fix: pass batch_size=1 or more"


@pytest.mark.parametrize("what", ["mean", "std"])
def test_mean_and_std_have_an_entry_per_channel(tmp_path: Path, what: str) -> None:
    np.savez(tmp_path / "test.npz", images=COLOR, labels=LABELS)
    assert refused("arrays", tmp_path, **{what: (0.5,)}) == (
        f"{what} has 1 entries and the images have 3 channels\n"
        f"  fix: write one {what} per channel into [data]"
    )


def test_no_images_are_no_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=COLOR[:0], labels=LABELS[:0])
    data = opened("arrays", tmp_path)
    assert len(data) == 0
    with pytest.raises(InputError, match="the data holds no batch"):
        list(numbered(data))


FIX_ARRAYS = "  fix: write it with np.savez(path, images=..., labels=...)"


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.7, -1])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, images=COLOR, labels=LABELS)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    said = refused("arrays", tmp_path)
    assert said.startswith("this is no .npz with images and labels: ")
    assert said.endswith(f"\n  at:  {path}\n{FIX_ARRAYS}")


def test_a_npz_with_flipped_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    np.savez_compressed(path, images=COLOR, labels=LABELS)
    content = bytearray(path.read_bytes())
    for place in range(100, 160):
        content[place] ^= 0xFF
    path.write_bytes(content)
    assert refused("arrays", tmp_path).startswith("this is no .npz with images and labels: ")


def test_a_npz_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=COLOR)
    assert "this is no .npz with images and labels: 'labels is not a file" in refused(
        "arrays", tmp_path
    )


class Trap:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path, key: str) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], object)
    np.savez(tmp_path / "test.npz", **{"images": COLOR, "labels": LABELS, key: trap})
    assert "Object arrays cannot be loaded when allow_pickle=False" in refused("arrays", tmp_path)
    np.save(tmp_path / "a.npy", trap)
    said = refused("arrays", tmp_path / "a.npy")
    assert said.startswith("this is no .npy: Object arrays cannot be loaded")
    assert said.endswith("  fix: write it with np.save(path, images)")
    assert not (tmp_path / "sprung").exists()


def test_a_single_array_or_something_else_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", COLOR)
    (tmp_path / "array.npy").rename(tmp_path / "test.npz")
    assert "labels: it holds a single array" in refused("arrays", tmp_path)
    (tmp_path / "test.npz").write_text("images, labels")
    assert refused("arrays", tmp_path).startswith("this is no .npz with images and labels: ")
    (tmp_path / "t.npy").write_text("images, labels")
    assert refused("arrays", tmp_path / "t.npy").startswith("this is no .npy: ")


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    for name in ("a.npz", "a.npy"):
        assert refused("arrays", tmp_path / name) == (
            f"there is no such file\n  at:  {tmp_path / name}\n  fix: check --data"
        )


def test_an_array_that_claims_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 8, 8)}
    np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "a.npy").write_bytes(file.getvalue() + b"few")
    assert refused("arrays", tmp_path / "a.npy").startswith("this is no .npy: ")


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (COLOR.astype(np.float32), LABELS, "images are float32 (10, 6, 5, 3) and labels (10,)"),
        (COLOR[0, 0], LABELS[:5], "images are uint8 (5, 3) and labels (5,)"),
        (COLOR, LABELS[:9], "images are uint8 (10, 6, 5, 3) and labels (9,)"),
        (COLOR, LABELS[:, None], "images are uint8 (10, 6, 5, 3) and labels (10, 1)"),
    ],
)
def test_arrays_of_another_type_or_shape_are_told(
    tmp_path: Path, images: Any, labels: Any, said: str
) -> None:
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    assert refused("arrays", tmp_path) == (
        f"{said}\n  at:  {tmp_path / 'test.npz'}\n"
        "  fix: store images as uint8 (N, H, W) or (N, H, W, C), and one label for each"
    )


@pytest.mark.parametrize("labels", [LABELS / 2, LABELS.astype(str), LABELS > 3])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, labels: Any) -> None:
    np.savez(tmp_path / "test.npz", images=COLOR, labels=labels)
    np.savez(tmp_path / PACKS["cifar10", "test"], **packed([b"x"] * 10, labels))
    for kind in ("arrays", "cifar10"):
        said = refused(kind, tmp_path)
        assert said.startswith(f"labels are {labels.dtype}, not whole numbers\n  at:  {tmp_path}")
        assert said.endswith("  fix: store the number of each image's class")


@pytest.mark.parametrize(
    "wrong",
    [
        {"offsets": np.array([0, 3, 2, 5])},
        {"offsets": np.array([0, 3, 2, 5], np.uint64)},
        {"offsets": np.array([-2, 1, 2, 5])},
        {"offsets": np.array([0, 1, 2, 7])},
        {"offsets": np.array([0, 1, 2, (1 << 64) - 1], np.uint64)},
        {"offsets": np.array([0, 1, 2])},
        {"offsets": np.array([0.0, 1.0, 2.0, 3.0])},
        {"offsets": np.array([[0, 1, 2, 3]])},
        {"offsets": np.array(3)},
        {"blob": np.zeros(6, np.int32)},
        {"blob": np.zeros((2, 3), np.uint8)},
    ],
)
def test_offsets_that_do_not_cut_the_blob_into_images_are_refused(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    path = tmp_path / PACKS["cifar10", "test"]
    np.savez(path, **packed([b"ab", b"cd", b"ef"], LABELS[:3]) | wrong)
    assert refused("cifar10", tmp_path) == (
        f"offsets and labels of this pack do not fit\n  at:  {path}\n  fix: get it anew"
    )


def test_a_broken_image_of_a_pack_is_told_by_its_number(tmp_path: Path) -> None:
    files = [encoded(each) for each in COLOR[:3]]
    files[2] = files[2][:-40]
    path = tmp_path / PACKS["cifar10", "test"]
    np.savez(path, **packed(files, LABELS[:3]))
    said = refused("cifar10", tmp_path)
    assert said.startswith("this is no image: ")
    assert said.endswith(f"  at:  {path}, image 2\n  fix: remove or replace it")


def test_text_under_an_images_name_is_told_by_its_path(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "bee" / "fake.jpg"
    path.write_text("not an image")
    said = refused("folder", tmp_path)
    assert said.startswith("this is no image: cannot identify image file")
    assert said.endswith(f"  at:  {path}\n  fix: remove or replace it")


@pytest.mark.parametrize("layout", ["empty", "missing", "no classes", "a file"])
def test_a_folder_without_images_says_how_to_lay_them_out(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "images"
    if layout != "missing":
        root.mkdir()
    if layout == "no classes":
        (root / "0.png").write_bytes(encoded(COLOR[0]))
    if layout == "a file":
        root = root / "0.png"
        root.write_bytes(encoded(COLOR[0]))
    assert refused("folder", root) == (
        f"there are no images in folders of classes here\n  at:  {root}\n"
        "  fix: lay them out as <path>/<class>/<name>, one of .bmp, .jpeg, .jpg, .png, .webp"
    )


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds nothing."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 40_000])  # Pillow warns, and refuses
def test_an_image_that_claims_huge_dimensions_is_refused(side: int) -> None:
    with pytest.raises(InputError) as caught:
        decode(png_of(side, side), "bomb.png")
    assert str(caught.value).startswith(f"this is no image: Image size ({side * side} pixels) ")
    assert str(caught.value).endswith("\n  at:  bomb.png\n  fix: remove or replace it")


def test_a_sliver_is_not_blown_up() -> None:
    content = encoded(np.zeros((1, 20_000, 3), np.uint8))
    assert decode(content, "sliver.png").shape == (1, 20_000, 3)
    with pytest.raises(InputError) as caught:
        decode(content, "sliver.png", size=224)
    assert str(caught.value) == (
        "20000x1 is too narrow to be cut to 224x224\n  at:  sliver.png\n  fix: remove or replace it"
    )


def test_without_pillow_the_package_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError) as caught:
        decode(b"", "x.png")
    assert str(caught.value) == (
        "images are decoded by Pillow, which is not installed\n  fix: pip install 'qdq[demo]'"
    )


WRONG_IDX = [
    (b"", "it ends within its header"),
    (idx(GRAY)[:11], "it ends within its header"),
    (idx(GRAY)[:-1], "it claims to hold 7840 bytes and holds 7839"),
    (idx(GRAY) + b"x", "it claims to hold 7840 bytes and holds more"),
    (idx(GRAY, magic=0x801), "its magic number is 2049"),
    (idx(GRAY, (10, 28, 1000)), "it claims to hold 280000 bytes and holds 7840"),
    (idx(GRAY, (10, 28, -1)), "it claims to hold [10, 28, -1]"),
    (idx(GRAY, (1 << 30, 28, 28)), f"it claims to hold [{1 << 30}, 28, 28]"),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("content", "said"), WRONG_IDX)
def test_an_idx_file_must_hold_what_it_claims(
    tmp_path: Path, content: bytes, said: str, zipped: bool
) -> None:
    write_mnist(tmp_path, "idx")
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.unlink()
    if zipped:
        path, content = path.with_name(f"{path.name}.gz"), gzip.compress(content)
    path.write_bytes(content)
    assert refused("mnist", tmp_path) == (
        f"this is no idx file of MNIST: {said}\n  at:  {path}\n  fix: get it anew"
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no gzip"])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path, "gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[30:60] = bytes(0xFF ^ each for each in content[30:60])
    else:
        content = bytearray(idx(GRAY))
    path.write_bytes(content)
    assert refused("mnist", tmp_path).startswith("this is no idx file of MNIST: ")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_mnist(tmp_path, "gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx(GRAY))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        assert "it claims to hold 7840 bytes and holds more" in refused("mnist", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_as_many_labels_as_images_are_needed(tmp_path: Path) -> None:
    write_mnist(tmp_path, "idx")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:9] % 10))
    assert refused("mnist", tmp_path).startswith("images are uint8 (10, 28, 28) and labels (9,)")


REAL = Path(os.environ.get("QDQ_DATA") or "../shared/data")
real = pytest.mark.skipif(
    not (REAL / "cifar10").is_dir(), reason="needs the real data: set QDQ_DATA to it"
)


@real
@pytest.mark.parametrize(
    ("kind", "split", "count", "shape", "first"),
    [
        ("cifar10", "test", 10_000, (3, 32, 32), None),
        ("cifar10", "train", 10_000, (3, 32, 32), None),
        ("imagenet", "test", 1_000, (3, 224, 224), [0, 1, 2, 3, 4, 5, 6, 7]),
        ("imagenet", "train", 250, (3, 224, 224), [0, 4, 8, 12, 16, 20, 24, 28]),
        ("mnist", "test", 10_000, (1, 28, 28), [7, 2, 1, 0, 4, 1, 4, 9]),
        ("mnist", "train", 60_000, (1, 28, 28), [5, 0, 4, 1, 9, 2, 1, 3]),
    ],
)
def test_the_real_data_is_whole(
    kind: str, split: str, count: int, shape: tuple[int, ...], first: list[int] | None
) -> None:
    data = opened(kind, REAL, split, size=8)
    assert isinstance(data, ImageBatches)
    assert data.count == count
    assert data.labels is not None
    assert len(data.labels) == count
    images, labels = next(iter(data))
    assert images.shape == (8, *shape)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    if first is not None:
        assert labels.tolist() == first
    else:
        assert np.bincount(data.labels).tolist() == [count // 10] * 10
