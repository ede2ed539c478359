"""Counting what tensors of a float graph see while onnxruntime runs it on data."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import ModelProto, TensorProto, helper

from qdq.errors import CalibrationError, GraphError, InputError, first_line
from qdq.graph.edges import infer_shapes
from qdq.graph.quantizing.feeding import Array, Feed
from qdq.numerics.counters import Total, counted
from qdq.numerics.histogram import Histogram, not_finite

MOST_BYTES = 1 << 30  # of the tensors that one run gives
_IN_ONE = 1 << 30  # bytes; a larger model is handed over in a file, its weights beside it
Runner = Callable[[Feed], list[Array]]


def observe(
    graph: gs.Graph,
    opsets: Sequence[onnx.OperatorSetIdProto],
    names: Sequence[str],
    batches: Iterable[Feed],
    *,
    at: str = "the float model",
) -> dict[str, Histogram]:
    """Run the graph in float and count the values of some of its tensors.

    They are extra outputs of a model in memory. Where they are more than `MOST_BYTES`, by the
    shapes of the first batch, they are taken in several runs.

    Args:
        graph: float, clean; left as it is.
        opsets: that it is written in.
        names: of float32 tensors, inputs of the graph among them.
        batches: what to run it on, see `feeding.feeds`.
        at: the file, for messages.

    Returns:
        Name -> what the tensor saw.

    Raises:
        CalibrationError: NaN or infinity in a tensor, with its name and the batch.
        GraphError: onnxruntime refuses the model.
        InputError: onnxruntime cannot run it on a batch.
    """
    given = {each.name for each in graph.inputs}
    totals = {name: Total() for name in names}
    runners: list[tuple[list[str], Runner]] = []
    for count, feed in enumerate(batches):
        if not runners:
            wanted = [name for name in names if name not in given]
            model = gs.export_onnx(graph, opset_imports=list(opsets))
            groups = _groups(wanted, _sizes(graph, feed))
            runners = [(group, _runner(model, group, at)) for group in groups]
        for name in given.intersection(names):
            totals[name].add(_finite(name, feed[name], count))
        for group, run in runners:
            for name, array in zip(group, _run(run, feed, count), strict=True):
                if array.size:
                    totals[name].add(_finite(name, array, count))
    return {name: total.histogram() for name, total in totals.items()}


def session_of(model: ModelProto, *, at: str) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU of a model in memory.

    Raises:
        GraphError: onnxruntime refuses it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    size = sum(len(each.raw_data) for each in model.graph.initializer)
    try:
        if size < _IN_ONE:
            return _opened(model.SerializeToString(), options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path, save_as_external_data=True, location="data")
            return _opened(str(path), options)
    except Exception as error:
        raise GraphError(
            f"onnxruntime refuses this model: {first_line(error)}",
            at=at,
            fix="see that the float file runs in onnxruntime first",
        ) from error


def _opened(source: str | bytes, options: Any) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _runner(model: ModelProto, names: Sequence[str], at: str) -> Runner:
    """Runs the model and gives these of its tensors, and no outputs."""
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return partial(session_of(model, at=at).run, None)


def _sizes(graph: gs.Graph, feed: Mapping[str, Array]) -> dict[str, int]:
    """Bytes of each float tensor for which they follow from the shapes of a batch."""
    before = [each.shape for each in graph.inputs]
    try:
        for tensor in graph.inputs:
            tensor.shape = list(feed[tensor.name].shape)
        infer_shapes(graph)
        return {
            name: 4 * prod(tensor.shape)
            for name, tensor in graph.tensors().items()
            if tensor.shape is not None and all(isinstance(each, int) for each in tensor.shape)
        }
    finally:
        for tensor, shape in zip(graph.inputs, before, strict=True):
            tensor.shape = shape
        infer_shapes(graph)


def _groups(names: Sequence[str], sizes: Mapping[str, int]) -> list[list[str]]:
    """Names in order, so many together that their tensors have at most `MOST_BYTES`."""
    groups: list[list[str]] = []
    held = MOST_BYTES
    for name in names:
        size = sizes.get(name, MOST_BYTES // 8)
        if held + size > MOST_BYTES or not groups:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _run(run: Runner, feed: Feed, batch: int) -> list[Array]:
    try:
        return run(feed)
    except Exception as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
        raise InputError(
            f"onnxruntime cannot run the model on {shapes}: {first_line(error)}",
            at=f"batch {batch}",
            fix="pass data of the shapes that the model was made for",
        ) from error


def _finite(name: str, array: Array, batch: int) -> Histogram:
    if array.dtype != np.float32:
        raise GraphError(
            f"the model computes {array.dtype} here, and no float32", at=name, fix="leave it float"
        )
    hist = counted(np.ascontiguousarray(array).reshape(-1), threads=os.cpu_count() or 1)
    wrong = not_finite(hist)
    if wrong:
        raise CalibrationError(
            f"batch {batch} makes NaN or infinity here: {wrong} of {hist.total} values",
            at=name,
            fix="the float model is broken on this batch: look at the nodes before this tensor",
        )
    return hist
