"""What the user gives as data -> what onnxruntime is fed, checked batch by batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from qdq.errors import InputError

Array: TypeAlias = NDArray[Any]
Feed: TypeAlias = dict[str, Array]
Given: TypeAlias = Array | Mapping[str, Array]
# One array is rows; a mapping is one batch; anything else is batches of these.
Data: TypeAlias = Given | Iterable[Given]

ROWS = 32  # of one array, in each batch


def feeds(inputs: Sequence[gs.Tensor], data: Data, batches: int | None = None) -> Iterator[Feed]:
    """The batches of `data` by name of the input, in the types of the file.

    A batch that holds several times as many rows as a file of a fixed batch takes is cut up.
    Arrays that no input is called like, labels for instance, are left aside.

    Args:
        inputs: of the graph.
        data: see `Data`.
        batches: so many at most; None for all.

    Raises:
        InputError: no batch, `batches` below 1, or a batch that does not fit: which input, and how
            it differs.
    """
    if batches is not None and batches < 1:
        raise InputError(f"batches={batches}", fix="pass batches=1 or more, or None for all")
    count = 0
    for count, given in enumerate(islice(_batches(data), batches), start=1):
        yield from _cut(inputs, _fitted(inputs, given, at=f"batch {count - 1}"))
    if not count:
        raise InputError("the data holds no batch", fix="pass at least one")


def _batches(data: Data) -> Iterator[object]:
    if isinstance(data, np.ndarray):
        yield from (data[start : start + ROWS] for start in range(0, len(data), ROWS))
    elif isinstance(data, Mapping):
        yield data
    else:
        try:
            yield from iter(data)
        except TypeError as error:
            raise InputError(
                f"the data is a {type(data).__name__}, which cannot be iterated: {error}",
                fix="pass batches: dictionaries of arrays by input name",
            ) from error


def _fitted(inputs: Sequence[gs.Tensor], given: object, *, at: str) -> Feed:
    names = [each.name for each in inputs]
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise InputError(
                f"the file takes {len(names)} inputs, {', '.join(names)}, and got one "
                f"{type(given).__name__}",
                at=at,
                fix="pass dictionaries of arrays by input name",
            )
        given = {names[0]: given}
    if len(given) == len(names) == 1:
        given = {names[0]: next(iter(given.values()))}
    if not set(names) <= set(given):
        raise InputError(
            f"the file takes {', '.join(names)}, and got {', '.join(map(str, given)) or 'nothing'}",
            at=at,
            fix="pass one array for every input, by its name",
        )
    return {each.name: _array(each, given[each.name], at) for each in inputs}


def _array(tensor: gs.Tensor, value: object, at: str) -> Array:
    where = f"{at}, input {tensor.name!r}"
    try:
        array = np.asarray(value)
    except Exception as error:  # of lists with unlike parts, of tensors with gradients
        raise InputError(
            f"this {type(value).__name__} is no array: {error}",
            at=where,
            fix="pass numpy arrays by input name, and no labels beside them",
        ) from error
    if tensor.dtype is None or array.dtype == tensor.dtype:
        pass
    elif np.can_cast(array.dtype, tensor.dtype, "same_kind"):
        array = array.astype(tensor.dtype)
    else:
        raise InputError(
            f"the file takes {np.dtype(tensor.dtype)} and got {array.dtype}",
            at=where,
            fix=f"prepare the data as the model wants it, then pass "
            f"array.astype({str(np.dtype(tensor.dtype))!r})",
        )
    shape = tensor.shape
    if shape is not None and not _fits(array.shape, shape):
        raise InputError(
            f"the file takes ({', '.join(map(str, shape))}) and got {array.shape}",
            at=where,
            fix="pass arrays of that shape; where the file has a name, any length will do",
        )
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise InputError(
            "the data holds NaN or infinity", at=where, fix="leave this batch out, or mend it"
        )
    return np.ascontiguousarray(array)


def _fits(found: tuple[int, ...], wanted: Sequence[object]) -> bool:
    """Whether lengths agree where they are known; more rows than a fixed batch has are cut."""
    if len(found) != len(wanted):
        return False
    return all(
        not isinstance(size, int) or length == size or (not axis and length and not length % size)
        for axis, (length, size) in enumerate(zip(found, wanted, strict=True))
        if size != 0
    )


def _cut(inputs: Sequence[gs.Tensor], feed: Feed) -> Iterator[Feed]:
    """The batch as it is, or in parts of as many rows as the file is fixed to."""
    fixed = {
        each.name: each.shape[0]
        for each in inputs
        if each.shape and isinstance(each.shape[0], int) and each.shape[0] > 0
    }
    parts = {len(feed[name]) // rows for name, rows in fixed.items()}
    if parts in (set(), {1}):
        yield feed
        return
    if len(parts) > 1:
        held = ", ".join(f"{name} {feed[name].shape}" for name in fixed)
        raise InputError(
            f"the inputs hold unlike numbers of rows: {held}",
            fix="pass as many rows of every input as the file takes at once",
        )
    for part in range(parts.pop()):
        yield {
            name: array[part * fixed[name] : (part + 1) * fixed[name]] if name in fixed else array
            for name, array in feed.items()
        }
