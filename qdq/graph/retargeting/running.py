"""Models in memory, run in onnxruntime's CPU provider."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto

from qdq.errors import GraphError, first_line
from qdq.graph.edges import Array
from qdq.graph.quantizing.feeding import Feed

_ROWS = 8  # of random inputs whose number of rows is free
_LENGTH = 32  # of their other axes that are free


def opened(content: bytes, *, optimize: bool, at: str) -> onnxruntime.InferenceSession:
    """A session on one thread.

    Raises:
        GraphError: onnxruntime refuses the model.
    """
    try:
        return _session(content, optimize=optimize)
    except Exception as error:
        raise GraphError(
            f"onnxruntime refuses this file: {first_line(error)}",
            at=at,
            fix="see that the file runs in onnxruntime before it is rewritten",
        ) from error


def run_once(model: ModelProto, feed: Mapping[str, Array], *, optimize: bool) -> Array | None:
    """The first output of a model; None where onnxruntime cannot run it."""
    try:
        session = _session(model.SerializeToString(), optimize=optimize)
        return np.asarray(session.run(None, dict(feed))[0])
    except Exception:  # a kernel that this build lacks, a shape that does not fit
        return None


def run_all(
    session: onnxruntime.InferenceSession, feeds: Sequence[Feed], *, at: str
) -> list[list[Array]]:
    """Per batch, what each output gives.

    Raises:
        GraphError: onnxruntime cannot run the model on a batch.
    """
    try:
        return [[np.asarray(each) for each in session.run(None, feed)] for feed in feeds]
    except Exception as error:
        raise GraphError(
            f"onnxruntime cannot run this file: {first_line(error)}",
            at=at,
            fix="pass data of the shapes that the model was made for",
        ) from error


def random_feed(
    session: onnxruntime.InferenceSession, ranges: Mapping[str, tuple[float, float]]
) -> Feed | None:
    """Seeded random inputs: floats within their range, codes, zeros for all else.

    Args:
        session: of the model.
        ranges: of its inputs, where they are known: eight standard deviations.

    Returns:
        None where an input is of a type without random values.
    """
    rng = np.random.default_rng(0)
    feed = {}
    for each in session.get_inputs():
        kind = each.type.removeprefix("tensor(").removesuffix(")")
        shape = [
            size if isinstance(size, int) else _LENGTH if axis else _ROWS
            for axis, size in enumerate(each.shape)
        ]
        if kind == "float" and each.name in ranges:
            low, high = ranges[each.name]
            values = rng.normal((low + high) / 2, (high - low) / 8, shape)
            drawn: Array = np.clip(values, low, high).astype(np.float32)
        elif kind in ("float", "double", "float16"):
            dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
            drawn = rng.standard_normal(shape).astype(dtype)
        elif kind in ("int8", "uint8"):  # codes
            ends = np.iinfo(kind)
            drawn = rng.integers(ends.min, ends.max, shape, np.dtype(kind), endpoint=True)
        elif kind in ("int64", "int32", "bool"):
            drawn = np.zeros(shape, kind)
        else:
            return None
        feed[each.name] = drawn
    return feed


def _session(content: bytes, *, optimize: bool) -> onnxruntime.InferenceSession:
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
