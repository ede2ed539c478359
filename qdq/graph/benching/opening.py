"""Files opened to be timed, and inputs drawn for them."""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qdq.errors import GraphError, InputError, first_line
from qdq.registry import choose_one_of

Feeds: TypeAlias = dict[str, NDArray[Any]]

CPU = "CPUExecutionProvider"
_DTYPES = {"float": "float32", "double": "float64"}
_MOST_ELEMENTS = 1 << 28  # of one input


def provider_named(name: str) -> str:
    """An execution provider by its name or the beginning of it: "cpu", "cuda".

    Raises:
        InputError: this onnxruntime has no such provider.
    """
    available: list[str] = onnxruntime.get_available_providers()
    short = {each.removesuffix("ExecutionProvider").lower(): each for each in available}
    found = short.get(name.removesuffix("ExecutionProvider").lower())
    if found is None:
        raise InputError(
            f"this onnxruntime has no provider {name!r}", fix=choose_one_of(name, sorted(short))
        )
    return found


def open_session(
    model: str | os.PathLike[str] | bytes,
    *,
    threads: int = 1,
    provider: str = CPU,
    at: str = "",
) -> onnxruntime.InferenceSession:
    """A session as it is deployed, but that threads sleep while they wait.

    A session whose threads spin slows the others that take their turn.

    Args:
        model: a file, or its content.
        threads: of one operator.
        provider: what runs it, and the CPU what it cannot run.
        at: what to call content in an error.

    Raises:
        GraphError: no such file, or onnxruntime refuses it.
    """
    at = at or str(model)
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise GraphError("there is no such ONNX file", at=at, fix="check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = model if isinstance(model, bytes) else str(model)
    providers = [provider] if provider == CPU else [provider, CPU]
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise GraphError(
            f"onnxruntime refuses this file: {first_line(error)}",
            at=at,
            fix="run `qdq lint` on it, and check the providers",
        ) from error


def draw_inputs(
    session: onnxruntime.InferenceSession,
    *,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    at: str = "",
) -> Feeds:
    """Normal values for floats, zeros for whatever else there is: tokens, masks, lengths.

    Args:
        session: who takes them.
        batch: length of the first axis of every input where the file leaves it open; None: 1.
        sizes: of dimensions with names; others that vary are 1.
        at: the file, for errors.

    Raises:
        InputError: a type that no values are made of, more values than anybody means, or a batch
            that the file does not take.
    """
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    given = session.get_inputs()
    fixed = {each.shape[0] for each in given if each.shape and isinstance(each.shape[0], int)}
    if batch is not None and fixed and all(each.shape for each in given) and batch not in fixed:
        raise InputError(
            f"the file takes batches of {min(fixed)}, not of {batch}",
            at=at,
            fix="export it with dynamic_batch=True, or leave the batch to the file",
        )
    for each in given:
        shape = [
            size
            if isinstance(size, int)
            else (sizes or {}).get(size, (batch or 1) if axis == 0 else 1)
            for axis, size in enumerate(each.shape)
        ]
        if prod(shape) > _MOST_ELEMENTS:
            raise InputError(
                f"input {each.name!r} of shape {tuple(shape)} has too many values",
                at=at,
                fix="pass a smaller batch, or smaller sizes",
            )
        feeds[each.name] = _drawn(rng, shape, each.type, f"{at}: {each.name}")
    return feeds


def _drawn(rng: np.random.Generator, shape: list[int], kind: str, at: str) -> NDArray[Any]:
    name = kind.removeprefix("tensor(").removesuffix(")")
    try:
        dtype = np.dtype(_DTYPES.get(name, name))
    except TypeError as error:
        raise InputError(
            f"this input is a {kind}: no random values are made of that",
            at=at,
            fix="time a file that takes numbers",
        ) from error
    values = rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
    return values.astype(dtype)


def refuse_inputs(error: Exception, at: str) -> InputError:
    """What to say where onnxruntime cannot run a file on inputs that were drawn for it."""
    return InputError(
        f"onnxruntime cannot run it on random inputs: {first_line(error)}",
        at=at,
        fix="give the sizes of dimensions that vary, sizes={'height': 224}, and a batch it takes",
    )
