"""Batches -> (inputs, target), and calling a model with them.

A batch is a tensor or 1-tuple (inputs), a 2-tuple (inputs, target) with inputs a tensor, tuple or
dict, or a dict of keywords whose `labels` is the target.
"""

import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qdq.errors import InputError, QdqError

Inputs: TypeAlias = Tensor | tuple[Any, ...] | dict[str, Any]


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
    for index, batch in enumerate(_reading(itertools.islice(data, limit))):
        yield index, batch
    if index < 0:
        raise InputError(
            "the data holds no batch",
            fix="pass at least one; a generator that was read to its end is empty: pass a list or "
            "a DataLoader",
        )


def _reading(data: Iterable[object]) -> Iterator[object]:
    """The same batches; what the user's own code raises while it makes one becomes ours."""
    index = -1
    try:
        for index, batch in enumerate(data):  # noqa: B007 - the message needs it
            yield batch
    except QdqError:
        raise
    except Exception as error:
        raise InputError(
            f"reading batch {index + 1} failed: {type(error).__name__}: {first_line(error)}",
            fix="iterate over the data by itself to see where",
        ) from error


def length(data: Iterable[object], limit: int | None = None) -> int | None:
    """How many batches `numbered` will give, where that is known."""
    try:
        known = len(data) if isinstance(data, Sized) else None
    except TypeError:  # a DataLoader has a length, and its IterableDataset may have none
        known = None
    return known if limit is None or known is None else min(known, limit)


@dataclass(frozen=True, eq=False)
class Window:
    """Some consecutive batches of data that can be read again and again.

    Attributes:
        data: all batches.
        start: number of the first.
        stop: number after the last; None for all the rest.
    """

    data: Iterable[object]
    start: int
    stop: int | None

    def __len__(self) -> int:
        known = length(self.data)
        if known is None:
            raise TypeError("these batches have no length")
        return len(range(*slice(self.start, self.stop).indices(known)))

    def __iter__(self) -> Iterator[object]:
        return itertools.islice(iter(self.data), self.start, self.stop)


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


def rows_of(batch: object) -> int:
    """The rows of a batch: of its first tensor that has any; 0 where no tensor is found."""
    return next((len(tensor) for tensor in tensors_of(batch) if tensor.dim()), 0)


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
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(inputs)) or repr(inputs)
        said = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"the model does not take inputs of shape {shapes}: {said}",
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


def first_line(error: Exception) -> str:
    """What an exception says, without the rest of its story."""
    return (str(error).strip().splitlines() or [""])[0]
