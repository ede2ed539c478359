"""Image data as it lies on disk: packs of encoded images, MNIST, folders, plain arrays.

Images come as float32 (N, C, H, W) in 0..1, less the mean and over the deviation that were asked
for; they are decoded batch by batch, so that memory holds what the files hold.
"""

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.data.batches import first_line
from qdq.data.files import read_idx, read_npy, read_npz
from qdq.data.sources import SOURCES, Request
from qdq.errors import InputError

Pixels: TypeAlias = NDArray[np.uint8]  # (H, W, C) or (H, W)
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Images in batches, in order, as often as one likes.

    Attributes:
        read: index -> one image, uint8 (H, W) or (H, W, C); all of one shape.
        count: N.
        labels: (N,) int64; None where there are none, and then a batch is (images,).
        request: batch size, mean and deviation.
    """

    read: Callable[[int], Pixels]
    count: int
    labels: NDArray[np.int64] | None
    request: Request

    def __len__(self) -> int:
        return -(-self.count // self.request.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        size = self.request.batch_size
        for start in range(0, self.count, size):
            rows = range(start, min(start + size, self.count))
            images = [self.read(index) for index in rows]
            if len({image.shape for image in images}) > 1:
                raise InputError(
                    f"images {start} to {rows.stop - 1} are not all of one size",
                    fix="write size = 224, or whatever the model takes, into [data]",
                )
            x = normalize(np.stack(images), self.request)
            if self.labels is None:
                yield (x,)
            else:
                yield x, torch.tensor(self.labels[rows.start : rows.stop])


def normalize(images: Pixels, request: Request) -> Tensor:
    """(images / 255 - mean) / std, channels second and contiguous.

    Args:
        images: (N, H, W) or (N, H, W, C) uint8.
        request: `mean` and `std` of C entries each, or none.

    Raises:
        InputError: mean or std of another number of channels.
    """
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    x = torch.from_numpy(np.ascontiguousarray(planes)).float().div_(255)
    for what, given in (("mean", request.mean), ("std", request.std)):
        if given and len(given) != x.shape[1]:
            raise InputError(
                f"{what} has {len(given)} entries and the images have {x.shape[1]} channels",
                fix=f"write one {what} per channel into [data]",
            )
    if request.mean:
        x.sub_(torch.tensor(request.mean).view(-1, 1, 1))
    if request.std:
        x.div_(torch.tensor(request.std).view(-1, 1, 1))
    return x


@SOURCES.add("cifar10")
def cifar10(request: Request) -> ImageBatches:
    """CIFAR-10 packs of JPEGs: cifar10_test_jpeg.npz and cifar10_train10k_jpeg.npz."""
    name = "cifar10_test_jpeg.npz" if request.split == "test" else "cifar10_train10k_jpeg.npz"
    return _pack(_find(request, "cifar10", name), request)


@SOURCES.add("imagenet")
def imagenet(request: Request) -> ImageBatches:
    """One image of each of ImageNet's 1,000 classes, 224x224.

    There is one set of images: "test" is all of them, "train" every fourth. Calibration looks at
    no labels, but its images are then among those that accuracy is measured on.
    """
    path = _find(request, "imagenet", "imagenet1k_one_per_class_224_q90.npz")
    return _pack(path, request, step=1 if request.split == "test" else 4)


@SOURCES.add("mnist")
def mnist(request: Request) -> ImageBatches:
    """MNIST (N, 1, 28, 28), from mnist_{train,test}.npz or the four original idx files."""
    folder = _root(request)
    folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
    packed = folder / f"mnist_{request.split}.npz"
    if packed.is_file():
        return _arrays(packed, request)
    stem = "t10k" if request.split == "test" else "train"
    images = read_idx(folder, f"{stem}-images-idx3-ubyte", 3)
    labels = read_idx(folder, f"{stem}-labels-idx1-ubyte", 1)
    return _in_memory(images, labels, request, folder)


@SOURCES.add("arrays")
def arrays(request: Request) -> ImageBatches:
    """A .npz with `images` uint8 (N, H, W[, C]) and `labels`, or a folder with one per split.

    A .npy holds images without labels.
    """
    path = _root(request)
    if path.suffix == ".npy":
        return _in_memory(read_npy(path), None, request, path)
    if path.is_dir():
        path = path / f"{request.split}.npz"
    return _arrays(path, request)


@SOURCES.add("folder")
def folder(request: Request) -> ImageBatches:
    """Image files in <path>/<class>/, or in <path>/<split>/<class>/ where there are splits.

    Classes are numbered in the order of their names. With `size`, the shorter side is scaled to
    256/224 of it and the middle square is cut out, as is usual for ImageNet.
    """
    path = _root(request)
    root = path / request.split if (path / request.split).is_dir() else path
    entries = list(root.iterdir()) if root.is_dir() else []
    kinds = sorted(each.name for each in entries if each.is_dir() and each.name[0] != ".")
    found = [
        (file, number)
        for number, kind in enumerate(kinds)
        for file in sorted((root / kind).iterdir())
        if file.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise InputError(
            "there are no images in folders of classes here",
            at=str(root),
            fix=f"lay them out as <path>/<class>/<name>, one of {', '.join(sorted(_SUFFIXES))}",
        )
    labels = np.array([number for _, number in found], np.int64)

    def read(index: int) -> Pixels:
        file, _ = found[index]
        return decode(file.read_bytes(), file, request.size)

    return ImageBatches(read, len(found), labels, request)


def decode(content: bytes, name: object, size: int | None = None) -> Pixels:
    """One encoded image as RGB uint8 (H, W, 3).

    Args:
        content: the bytes of a file.
        name: what to call it in messages.
        size: side of the middle square to cut out; None: as it is.

    Raises:
        InputError: it cannot be decoded, claims more pixels than Pillow thinks safe, or Pillow is
            not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            "images are decoded by Pillow, which is not installed", fix="pip install 'qdq[demo]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:
        raise InputError(
            f"this is no image: {first_line(error)}", at=str(name), fix="remove or replace it"
        ) from error
    if size is not None:
        ratio = size * 256 / 224 / min(image.size)
        width, height = round(image.width * ratio), round(image.height * ratio)
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise InputError(
                f"{image.width}x{image.height} is too narrow to be cut to {size}x{size}",
                at=str(name),
                fix="remove or replace it",
            )
        image = image.resize((width, height))
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def _root(request: Request) -> Path:
    given = request.path or os.environ.get("QDQ_DATA", "")
    if not given:
        raise InputError(
            "nothing says where the data is",
            fix="pass --data PATH, write path = ... into [data], or set QDQ_DATA",
        )
    return Path(given).expanduser()


def _find(request: Request, kind: str, name: str) -> Path:
    """The file in the root, or in the folder of its kind there."""
    root = _root(request)
    for path in (root / kind / name, root / name):
        if path.is_file():
            return path
    raise InputError(
        f"there is no {name} here", at=str(root), fix="point --data or QDQ_DATA at its folder"
    )


def _pack(path: Path, request: Request, *, step: int = 1) -> ImageBatches:
    """A .npz of encoded images end to end: `blob`, `offsets` (N + 1,), `labels` (N,)."""
    blob, offsets, labels = read_npz(path, ("blob", "offsets", "labels"))
    flat = blob.ndim == offsets.ndim == 1 and blob.dtype == np.uint8 and offsets.dtype.kind in "iu"
    ends = [0, *offsets.tolist(), len(blob)] if flat else []  # as Python's: unsigned ones wrap
    if not flat or sorted(ends) != ends or labels.shape != (len(offsets) - 1,):
        raise InputError(
            "offsets and labels of this pack do not fit", at=str(path), fix="get it anew"
        )
    content = blob.tobytes()
    chosen = np.arange(0, len(labels), step)

    def read(index: int) -> Pixels:
        row = chosen[index]
        return decode(content[offsets[row] : offsets[row + 1]], f"{path}, image {row}")

    return ImageBatches(read, len(chosen), _whole(labels, path)[chosen], request)


def _arrays(path: Path, request: Request) -> ImageBatches:
    images, labels = read_npz(path, ("images", "labels"))
    return _in_memory(images, labels, request, path)


def _in_memory(
    images: NDArray[Any], labels: NDArray[Any] | None, request: Request, at: Path
) -> ImageBatches:
    unfit = labels is not None and labels.shape != images.shape[:1]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or unfit:
        beside = "" if labels is None else f" and labels {labels.shape}"
        raise InputError(
            f"images are {images.dtype} {images.shape}{beside}",
            at=str(at),
            fix="store images as uint8 (N, H, W) or (N, H, W, C), and one label for each",
        )
    numbers = None if labels is None else _whole(labels, at)
    return ImageBatches(lambda index: images[index], len(images), numbers, request)


def _whole(labels: NDArray[Any], at: Path) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype}, not whole numbers",
            at=str(at),
            fix="store the number of each image's class",
        )
    return labels.astype(np.int64)
