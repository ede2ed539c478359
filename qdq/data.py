"""Batches -> (inputs, target), and where batches come from.

A batch is a tensor or 1-tuple (inputs), a 2-tuple (inputs, target) with inputs a tensor, tuple or
dict, or a dict of keywords whose `labels` is the target.
"""

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from qdq.errors import InputError, QdqError
from qdq.registry import Registry

Inputs: TypeAlias = Tensor | tuple[Any, ...] | dict[str, Any]
Split: TypeAlias = Literal["train", "test"]
# split, batch size -> batches that can be iterated again and again
Source: TypeAlias = Callable[[Split, int], Iterable[object]]
SOURCES: Registry[str, Source] = Registry("data source")


@dataclass(frozen=True)
class Batch:
    """One batch, taken apart.

    Attributes:
        index: its number, from 0.
        inputs: what the model is called with.
        target: what the metric compares with; None where the batch has none.
    """

    index: int
    inputs: Inputs
    target: Any = None


def read(data: Iterable[object], *, limit: int | None = None) -> Iterator[Batch]:
    """The batches of `data`, taken apart and checked.

    Raises:
        InputError: as `numbered` and `take_apart`.
    """
    return (take_apart(batch, index) for index, batch in numbered(data, limit=limit))


def numbered(data: Iterable[object], *, limit: int | None = None) -> Iterator[tuple[int, object]]:
    """(0, first batch), (1, second batch), ...

    Args:
        data: batches of any form.
        limit: stop after so many; None for all.

    Raises:
        InputError: this is no iterable of batches, or holds none.
    """
    if isinstance(data, (Tensor, dict, str)) or not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}, not batches",
            fix="pass an iterable of batches: a DataLoader, or a list, [batch]",
        )
    if limit is not None and limit < 1:
        raise InputError(f"batches={limit} reads nothing", fix="pass 1 or more, or None for all")
    index = -1
    for index, batch in enumerate(itertools.islice(data, limit)):
        yield index, batch
    if index < 0:
        raise InputError(
            "the data holds no batch",
            fix="pass at least one; a generator that was read to its end is empty: pass a list or "
            "a DataLoader",
        )


def length(data: Iterable[object], limit: int | None = None) -> int | None:
    """How many batches `numbered` will give, where that is known."""
    known = len(data) if isinstance(data, Sized) else None
    return known if limit is None or known is None else min(known, limit)


def take_apart(batch: object, index: int = 0) -> Batch:
    """A batch of any allowed form as inputs and target.

    Raises:
        InputError: another form, or NaN or infinity among the inputs.
    """
    if isinstance(batch, Tensor):
        taken = Batch(index, batch)
    elif isinstance(batch, dict):
        named = {key: value for key, value in batch.items() if key != "labels"}
        taken = Batch(index, named, batch.get("labels"))
    elif isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        taken = Batch(index, *batch)
    else:
        is_tuple = isinstance(batch, (tuple, list))
        shown = f"a tuple of {len(batch)}" if is_tuple else f"a {type(batch).__name__}"  # type: ignore[arg-type]
        raise InputError(
            f"batch {index} is {shown}, which does not say what is input and what is target",
            fix="yield (inputs, target) with inputs a tensor, a tuple or a dict; or pass step=, "
            "a function (model, batch) that runs the forward",
        )
    if not isinstance(taken.inputs, (Tensor, tuple, list, dict)):
        raise InputError(
            f"the inputs of batch {index} are a {type(taken.inputs).__name__}",
            fix="yield (inputs, target) with inputs a tensor, a tuple or a dict of tensors",
        )
    for tensor in tensors_of(taken.inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"batch {index} holds NaN or infinity",
                fix="look at how this batch is made: a division by a zero deviation, a log of 0, "
                "a broken file",
            )
    return taken


def tensors_of(inputs: object) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, dict):
        inputs = list(inputs.values())
    if isinstance(inputs, (tuple, list)):
        return [tensor for each in inputs for tensor in tensors_of(each)]
    return []


def call(model: nn.Module, inputs: object) -> Any:
    """model(inputs), the inputs spread as they are: tensor, tuple or keywords.

    Raises:
        InputError: the model raised on them; the text holds their shapes and its own words.
    """
    try:
        if isinstance(inputs, dict):
            return model(**inputs)
        if isinstance(inputs, (tuple, list)):
            return model(*inputs)
        return model(inputs)
    except QdqError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(inputs)) or repr(inputs)
        raise InputError(
            f"the model does not take inputs of shape {shapes}: {type(error).__name__}: {said[0]}",
            at=type(model).__name__,
            fix="pass inputs as the float model takes them",
        ) from error


def to_device(inputs: Any, device: torch.device | str) -> Any:
    """The same nest of tensors on `device`."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, dict):
        return {key: to_device(value, device) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(to_device(value, device) for value in inputs)
    return inputs


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lives; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


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


def source(name: str) -> Source:
    """A registered source, or the user's own `package.module:function(split, batch_size)`.

    Raises:
        InputError: the function cannot be imported.
        RegistryError: no source of that name.
    """
    return import_attribute(name, what="data") if ":" in name else SOURCES[name]


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
            f"{what} {path!r} does not import: {type(error).__name__}: {error}",
            fix="run from the folder that holds the module, and check the spelling",
        ) from error
    if not callable(found):
        raise InputError(
            f"{what} {path!r} is a {type(found).__name__}, which cannot be called",
            fix="name a function or a class",
        )
    return found


@SOURCES.add("digits")
def digits(split: Split, size: int) -> TensorBatches:
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
    return TensorBatches(images[chosen], labels[chosen], size)
