"""What a recipe names, made: the float model with its weights, and parts of its data."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from qdq.data import Inputs, Window, length
from qdq.data.sources import call_named
from qdq.errors import InputError
from qdq.insertion.weights import load_tensors, read_weights
from qdq.recipe import FinetunePart, ModelPart
from qdq.staging import sha256


def build(part: ModelPart, root: str) -> nn.Module:
    """The float model with its weights, in eval mode.

    Args:
        part: of the recipe.
        root: what `$QDQ_DATA` stands for in the path of the weights; "": the variable's value.

    Raises:
        InputError: the factory fails or makes no module, or the weights are not there, are not
            the recipe's, or do not fit.
    """
    path = None if part.weights is None else _expanded(part.weights, root)
    if path is not None:
        _refuse_other(path, part.sha256)
    given = (str(path),) if part.factory_loads else ()
    model = call_named(part.factory, *given, what="model factory")
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model factory {part.factory!r} gave a {type(model).__name__}",
            fix="let it return a torch.nn.Module",
        )
    if path is not None and not part.factory_loads:
        load_tensors(model, read_weights(path), at=str(path))
    return model.eval()


def _refuse_other(path: Path, digest: str | None) -> None:
    """InputError unless the file is there and, where the recipe says so, has this sha256."""
    if not path.is_file():
        raise InputError("there is no such file", at=str(path), fix="check the path")
    found = sha256(path)
    if digest not in (None, found):
        raise InputError(
            f"the weights are not the recipe's: their sha256 is {found}",
            at=str(path),
            fix="restore the file, or write its sha256 into the recipe",
        )


def _expanded(path: str, root: str) -> Path:
    """The path with $QDQ_DATA replaced by the root of the data."""
    root = root or os.environ.get("QDQ_DATA", "")
    if "$QDQ_DATA" in path and not root:
        raise InputError(
            "nothing says where the weights are",
            at=path,
            fix="pass --data PATH, or set QDQ_DATA to the folder that holds data and weights",
        )
    return Path(path.replace("$QDQ_DATA", root)).expanduser()


def split(data: Iterable[object], part: FinetunePart) -> tuple[Window, Window | None]:
    """The train split without its last batches, and those, by which the best epoch is chosen."""
    count = length(data)
    if not part.val_batches:
        return Window(data, 0, part.batches), None
    if count is None or count <= part.val_batches:
        raise InputError(
            f"finetune.val_batches={part.val_batches} leaves nothing to train on",
            fix="give the data a length and more batches than that, or write val_batches = 0",
        )
    last = count - part.val_batches
    stop = last if part.batches is None else min(part.batches, last)
    return Window(data, 0, stop), Window(data, last, None)


def first_row(inputs: Any) -> Inputs:
    """The same nest of tensors with one row each."""
    if isinstance(inputs, dict):
        return {key: first_row(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(first_row(value) for value in inputs)
    return inputs[:1]  # type: ignore[no-any-return]
