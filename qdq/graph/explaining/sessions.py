"""onnxruntime on a model in memory: what its optimizer writes, and how long each kernel takes."""

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from qdq.errors import GraphError, first_line
from qdq.graph.edges import Array

_WARM_UP = 3  # runs that are not counted
_FOLDER_OF_DATA = "session.model_external_initializers_file_folder_path"


def optimized(content: bytes, path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The graph that onnxruntime's CPU provider executes, with all optimizations.

    Args:
        content: a serialized model.
        path: the file it stems from; weights outside it are looked up in its folder.

    Raises:
        GraphError: onnxruntime refuses it.
    """
    options = _options(path)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        _opened(content, options, path)
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def kernel_times(
    content: bytes, path: str | os.PathLike[str], runs: int, sizes: Mapping[str, int]
) -> dict[str, float]:
    """Name of each kernel -> median time in one run, microseconds, on one thread.

    Args:
        content: a serialized model.
        path: the file it stems from.
        runs: how many are counted.
        sizes: of dimensions with names; others that vary are 1.

    Raises:
        GraphError: onnxruntime refuses it, or cannot run it on random inputs of these sizes.
    """
    options = _options(path)
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = _opened(content, options, path)
        feeds = _random_inputs(session, sizes, str(path))
        try:
            for _ in range(_WARM_UP + runs):
                session.run(None, feeds)
        except Exception as error:
            raise GraphError(
                f"onnxruntime cannot run it on random inputs: {first_line(error)}",
                at=str(path),
                fix="pass the sizes of dimensions that vary, sizes={'height': 224}",
            ) from error
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"])
    return {name: _per_run(each, runs) for name, each in times.items()}


def _per_run(durations: list[float], runs: int) -> float:
    """Median over the counted runs; a mean for what does not run equally often in each."""
    if len(durations) % (_WARM_UP + runs):
        return sum(durations) / (_WARM_UP + runs)
    return float(np.median(np.reshape(durations, (_WARM_UP + runs, -1))[_WARM_UP:].sum(axis=1)))


def _options(path: str | os.PathLike[str]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry(_FOLDER_OF_DATA, str(Path(path).absolute().parent))
    return options


def _opened(
    content: bytes, options: onnxruntime.SessionOptions, path: str | os.PathLike[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GraphError(
            f"onnxruntime refuses this file: {first_line(error)}",
            at=str(path),
            fix="export it again, or read the message above",
        ) from error


def _random_inputs(
    session: onnxruntime.InferenceSession, sizes: Mapping[str, int], path: str
) -> dict[str, Array]:
    """Normal values for floats, zeros for whatever else there is: tokens, masks, lengths."""
    rng = np.random.default_rng(0)
    feeds = {}
    for each in session.get_inputs():
        kind = each.type.removeprefix("tensor(").removesuffix(")")
        try:
            dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
        except TypeError as error:
            raise GraphError(
                f"input {each.name!r} is a {each.type}: no random values are made of that",
                at=path,
                fix="pass runs=0",
            ) from error
        shape = [size if isinstance(size, int) else sizes.get(size, 1) for size in each.shape]
        drawn = rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        feeds[each.name] = drawn.astype(dtype)
    return feeds
