"""How close a quantized file comes to the float one, in onnxruntime, on data."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from qdq.errors import GraphError
from qdq.graph.quantizing.feeding import Array, Feed
from qdq.numerics.distance import agreement, sqnr
from qdq.records.quantizing import OutputRow


def outputs_of(path: str | os.PathLike[str], batches: Sequence[Feed]) -> dict[str, list[Array]]:
    """What each output of floats gives, batch by batch.

    Args:
        path: an ONNX file.
        batches: what to run it on, at least one.

    Raises:
        GraphError: onnxruntime refuses it, or cannot run it.
    """
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        names = [each.name for each in session.get_outputs() if "float" in each.type]
        results = [session.run(names, feed) for feed in batches]
    except Exception as error:
        raise GraphError(
            f"onnxruntime does not run this file: {(str(error).splitlines() or [''])[0]}",
            at=str(path),
            fix="see that the float file runs in onnxruntime first",
        ) from error
    return {name: [each[index] for each in results] for index, name in enumerate(names)}


def compare_outputs(
    reference: Mapping[str, list[Array]], own: Mapping[str, list[Array]]
) -> tuple[OutputRow, ...]:
    """One row for each output.

    Args:
        reference: of the float file, see `outputs_of`.
        own: of the quantized one.
    """
    return tuple(_row(name, reference[name], own[name]) for name in own)


def _row(name: str, reference: list[Array], own: list[Array]) -> OutputRow:
    first, second = (np.concatenate([np.ravel(x) for x in each]) for each in (reference, own))
    classes = reference[0].ndim > 1 and reference[0].shape[1] > 1
    same = [agreement(a, b) for a, b in zip(reference, own, strict=True)] if classes else []
    rows = [len(each) for each in reference] if classes else []
    return OutputRow(
        name=name,
        sqnr_db=sqnr(first, second),
        largest=float(np.max(np.abs(first - second), initial=0.0)),
        agreement=float(np.average(same, weights=rows)) if classes else None,
    )
