"""A file against references tensor by tensor, in the codes of the file."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from qdq.data import Inputs
from qdq.errors import InputError
from qdq.graph.edges import Array
from qdq.graph.linting.reading import read_model
from qdq.records.validation import LayerReport, TensorRow
from qdq.validation.points import Point, points_of
from qdq.validation.tensors import Probe, onnx_probe, torch_probe


class LayerComparison:
    """A file and its references, looked into batch after batch.

    Both tensors are brought to the grid that the file quantizes its own on: what differs is then a
    number of codes, and the rounding of the tensor itself is in none of them. Both sides run node
    by node, without onnxruntime's optimizations.

    Args:
        path: an ONNX file.
        references: torch models or ONNX files by name.

    Raises:
        GraphError: a file cannot be read, or onnxruntime refuses it.
        InputError: the file quantizes nothing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        references: Mapping[str, nn.Module | str | os.PathLike[str]],
    ) -> None:
        self._points = points_of(read_model(path))
        if not self._points:
            raise InputError(
                "this file quantizes no tensor: there are no layers to compare in codes",
                at=str(path),
                fix="validate a file with QuantizeLinear and DequantizeLinear, or without layers",
            )
        self._own = onnx_probe(path, self._points)
        self._probes: dict[str, Probe] = {
            name: torch_probe(each, self._points)
            if isinstance(each, nn.Module)
            else onnx_probe(each, self._points)
            for name, each in references.items()
        }
        self._counts = {name: [_Count() for _ in self._points] for name in references}

    def add(self, inputs: Inputs) -> None:
        """Run one batch, and count what differs."""
        own = self._own(inputs)
        for reference, probe in self._probes.items():
            other = probe(inputs)
            for point, count in zip(self._points, self._counts[reference], strict=True):
                if point.name in other:
                    count.add(point, other[point.name], own[point.name])

    def reports(self) -> tuple[LayerReport, ...]:
        """One per reference.

        Raises:
            InputError: a reference has none of the tensors.
        """
        return tuple(self._report(name, counts) for name, counts in self._counts.items())

    def _report(self, reference: str, counts: "list[_Count]") -> LayerReport:
        pairs = list(zip(self._points, counts, strict=True))
        rows = tuple(count.row(point) for point, count in pairs if count.values)
        if not rows:
            raise InputError(
                f"{reference} has none of the {len(pairs)} tensors that the file quantizes",
                at=pairs[0][0].name,
                fix="compare with the torch model the file was exported from, or with a file whose "
                "tensors have the same names",
            )
        missing = tuple(point.name for point, count in pairs if not count.values)
        return LayerReport(reference, missing, rows)


@dataclass(slots=True)
class _Count:
    """One tensor, over all batches."""

    values: int = 0
    differing: int = 0
    largest: int = 0
    steps: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, point: Point, reference: Array, own: Array) -> None:
        reference = _alike(reference, own)
        shared = _shared(reference, own)
        if shared is None:
            return
        codes = [point.codes(each) for each in (reference, shared)]
        apart = np.abs(np.subtract(*(each.astype(np.int64) for each in codes)))
        floats = [point.floats(each).astype(np.float64) for each in codes]
        self.values += apart.size
        self.differing += int(np.count_nonzero(apart))
        self.largest = max(self.largest, int(apart.max(initial=0)))
        self.steps += float(apart.sum())
        self.signal += float((floats[0] ** 2).sum())
        self.noise += float(((floats[0] - floats[1]) ** 2).sum())

    def row(self, point: Point) -> TensorRow:
        ratio = math.inf
        if self.noise:
            ratio = 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf
        mean = self.steps / self.values
        return TensorRow(
            point.name, point.tensor, self.values, self.differing, self.largest, mean, ratio
        )


def _alike(reference: Array, own: Array) -> Array:
    """The reference in rows (N, C) or not, as the file has it where it made a Gemm of a layer."""
    rows = 2 in (own.ndim, reference.ndim) and own.shape[-1:] == reference.shape[-1:]
    return reference.reshape(own.shape) if rows and own.size == reference.size else reference


def _shared(reference: Array, own: Array) -> Array | None:
    """The part of `own` that has a counterpart: behind it lie channels that padding added."""
    longer = zip(own.shape, reference.shape, strict=False)
    if own.ndim != reference.ndim or any(ours < theirs for ours, theirs in longer):
        return None
    return own[tuple(slice(length) for length in reference.shape)]
