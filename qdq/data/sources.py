"""Where batches come from: names for recipes and the command line.

A source is a function of a Request that gives batches which can be iterated again and again.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qdq.data.batches import first_line
from qdq.errors import InputError, QdqError
from qdq.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of a source.

    Attributes:
        split: "train" (calibration, fine-tuning) or "test" (validation).
        batch_size: rows a batch.
        path: file or folder; "" for the source's own place.
        mean: per channel, taken from images in 0..1.
        std: per channel, images are divided by it.
        size: side of the square that images of a folder are cut to.

    Raises:
        InputError: another split, or a batch without rows.
    """

    split: str
    batch_size: int
    path: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "test"):
            raise InputError(f"no split {self.split!r}", fix="ask for 'train' or 'test'")
        if self.batch_size < 1:
            raise InputError(f"batches of {self.batch_size} rows", fix="pass batch_size=1 or more")


Source: TypeAlias = Callable[[Request], Iterable[object]]
SOURCES: Registry[str, Source] = Registry("data source")


def call_named(path: str, *args: object, what: str) -> Any:
    """What the function that `path` names gives for `args`; InputError if it fails."""
    function = import_attribute(path, what=what)
    try:
        return function(*args)
    except QdqError:
        raise
    except Exception as error:
        raise InputError(
            f"{what} {path!r} failed: {type(error).__name__}: {first_line(error)}",
            fix=f"call it by itself, {path.partition(':')[2]}({', '.join(map(repr, args))}), to "
            "see where",
        ) from error


def import_attribute(path: str, *, what: str) -> Any:
    """What `package.module:attribute` names.

    Args:
        path: module and attribute, separated by a colon.
        what: what the user calls it ("model factory"), for messages.

    Raises:
        InputError: the path has another form, does not import, or names nothing callable.
    """
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(
            f"{what} {path!r} does not name a function",
            fix="write package.module:function, as in models.lenet:lenet_digits",
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise InputError(
            f"{what} {path!r} does not import: {type(error).__name__}: {first_line(error)}",
            fix="run from the folder that holds the module, and check the spelling",
        ) from error
    if not callable(found):
        raise InputError(
            f"{what} {path!r} is a {type(found).__name__}, which cannot be called",
            fix="name a function or a class",
        )
    return found


@dataclass(frozen=True, eq=False)
class TensorBatches:
    """Two tensors in batches, in order, as often as one likes.

    Attributes:
        inputs: (N, ...).
        targets: (N, ...).
        size: rows a batch; the last may hold fewer.
    """

    inputs: Tensor
    targets: Tensor
    size: int

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.inputs), self.size):
            rows = slice(start, start + self.size)
            yield self.inputs[rows], self.targets[rows]


@SOURCES.add("digits")
def _digits(request: Request) -> TensorBatches:
    return digits(request.split, request.batch_size)


def digits(split: str, batch_size: int) -> TensorBatches:
    """scikit-learn's 1,797 handwritten digits as (N, 1, 32, 32) float32 in 0..1, with labels.

    The 8x8 values are counts of black pixels in the 4x4 blocks of 32x32 bitmaps (Alpaydin and
    Kaynak 1998, UCI); each is repeated over its block. Every third image is a test image.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the digits come with scikit-learn, which is not installed",
            fix="pip install 'qdq[demo]'",
        ) from error
    loaded = load_digits()
    images = torch.from_numpy(loaded.images).float() / 16
    images = images.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    labels = torch.from_numpy(loaded.target).long()
    test = torch.arange(len(images)) % 3 == 0
    chosen = test if split == "test" else ~test
    return TensorBatches(images[chosen], labels[chosen], batch_size)
