"""simulate: onnxruntime's optimized graph predicted code for code, and what differs explained."""

import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from qdq.errors import InputError
from qdq.graph.edges import Array
from qdq.graph.explaining.sessions import optimized
from qdq.graph.linting.reading import read_model
from qdq.graph.simulation.execution import Execution, Step
from qdq.graph.simulation.sessions import Observed, opened
from qdq.numerics.distance import agreement
from qdq.records.simulation import By, SimulatedRow, SimulationReport

_PRODUCTS = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "MatMulIntegerToFloat",
        "ConvInteger",
        "MatMulInteger",
    }
)
_NUMBERED = re.compile(r"_token_\d+$")  # what onnxruntime puts behind names


def simulate(path: str | os.PathLike[str], data: Iterable[Mapping[str, Array]]) -> SimulationReport:
    """Predict what onnxruntime's CPU provider computes of a file, and compare node by node.

    The file's optimized graph is run twice: by onnxruntime, with every tensor observed, and node by
    node with the arithmetic of its integer kernels in numpy: int32 sums, one multiplication in
    float32, ties to even. What computes on floats onnxruntime runs, one node at a time.

    Args:
        path: an ONNX file, of this package or not, best with Q and DQ.
        data: batches, each the arrays of all inputs by name.

    Raises:
        GraphError: the file cannot be read, or onnxruntime refuses it or one of its nodes alone.
        InputError: no batch, or one that onnxruntime does not take.
    """
    comparison = Comparison(path)
    for feeds in data:
        comparison.add(feeds)
    return comparison.report()


class Comparison:
    """A file, simulated beside onnxruntime, batch after batch.

    Args:
        path: an ONNX file.

    Raises:
        GraphError: it cannot be read, or onnxruntime refuses it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        read_model(path)  # so that a broken file is refused as everywhere
        content = Path(path).read_bytes()
        model = optimized(content, path)
        self._path, self._run = str(path), opened(content, path, optimize=True)
        self._execution, self._observed = Execution(model, path), Observed(model, path)
        self._outputs = [each.name for each in model.graph.output]
        self._counts = [_Count() for _ in self._execution.steps]
        self._totals = _Totals()

    def add(self, feeds: Mapping[str, Array]) -> None:
        """Run one batch, and count what differs.

        Args:
            feeds: the arrays of all inputs by name.

        Raises:
            GraphError: onnxruntime does not run a node alone.
            InputError: these are no arrays by name, or onnxruntime does not take them.
        """
        if not isinstance(feeds, Mapping):
            raise InputError(
                f"a batch is a {type(feeds).__name__}, not arrays by name",
                at=self._path,
                fix="pass a list of dicts, [{input: array}]",
            )
        feeds = {name: np.asarray(each) for name, each in feeds.items()}
        try:
            run = self._run.run(self._outputs, dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise InputError(
                f"onnxruntime does not take {shapes}: {str(error).splitlines()[0]}",
                at=self._path,
                fix="pass the arrays of all inputs by name, as the file declares them",
            ) from error
        predicted = self._predicted(feeds, dict(feeds) | self._observed.run(feeds))
        predicted = self._execution.constants | predicted
        self._totals.add([predicted[name] for name in self._outputs], run)

    def report(self) -> SimulationReport:
        """What differed over all batches.

        Raises:
            InputError: there was none.
        """
        totals = self._totals
        if not totals.batches:
            raise InputError("the data holds no batch", fix="pass at least one")
        pairs = zip(self._execution.steps, self._counts, strict=True)
        rows = tuple(_row(step, count) for step, count in pairs)
        of_codes = [row for row in rows if row.kind == "codes"]
        return SimulationReport(
            path=self._path,
            runtime=onnxruntime.__version__,
            samples=totals.samples,
            agreement=totals.equal / totals.places if totals.places else None,
            outputs=totals.values,
            outputs_differing=totals.differing,
            codes=sum(row.values for row in of_codes),
            codes_differing=sum(row.differing for row in of_codes),
            rows=rows,
        )

    def _predicted(
        self, feeds: Mapping[str, Array], truth: Mapping[str, Array]
    ) -> dict[str, Array]:
        """All tensors as simulated; what is off by the way is counted."""
        values = dict(feeds)
        off: dict[str, str] = {}  # tensor -> the node where its differences begin
        for step, count in zip(self._execution.steps, self._counts, strict=True):
            made, count.by = self._execution.run(step, values)
            before = next((off[name] for name in step.reads if name in off), None)
            fed = made if before is None else self._execution.run(step, truth)[0]
            for name, array in made.items():
                if count.add(array, fed[name], truth[name]):
                    off[name] = _label(step) if before is None or count.own else before
                    count.root = off[name]
            values |= made
        return values


@dataclass(slots=True)
class _Count:
    """What a node made, over all batches."""

    by: By = "numpy"
    codes: bool = False
    values: int = 0
    differing: int = 0
    own: int = 0
    largest: float = 0.0
    root: str = ""

    def add(self, predicted: Array, fed: Array, observed: Array) -> bool:
        """Count one tensor; whether it differs."""
        if not isinstance(observed, np.ndarray):
            return False  # a sequence: its parts are compared where they are taken out
        self.codes = observed.dtype.kind in "iu" and observed.dtype.itemsize <= 2
        differing = _differing(predicted, observed)
        self.values += observed.size
        self.differing += int(differing.sum())
        self.own += int((differing if fed is predicted else _differing(fed, observed)).sum())
        if differing.any():
            self.largest = max(self.largest, _largest(predicted, observed))
        return bool(differing.any())


@dataclass(slots=True)
class _Totals:
    """Outputs of the file, over all batches."""

    batches: int = 0
    samples: int = 0
    values: int = 0
    differing: int = 0
    equal: float = 0.0
    places: float = 0.0

    def add(self, predicted: list[Array], run: list[Array]) -> None:
        self.batches += 1
        self.samples += len(run[0]) if run[0].ndim else 1
        for one, other in zip(predicted, run, strict=True):
            self.values += other.size
            self.differing += int(_differing(one, other).sum())
        if run[0].ndim > 1 and run[0].shape[1] > 1 and run[0].size:
            places = run[0].size / run[0].shape[1]
            self.equal += places * agreement(predicted[0], run[0])
            self.places += places


def _differing(one: Array, other: Array) -> Array:
    """Where two arrays hold other values; two NaN are the same."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return np.ones(other.shape, bool)
    differing: Array = (one != other) & ((one == one) | (other == other))
    return differing


def _largest(one: Array, other: Array) -> float:
    """The largest difference; infinite where it is no number."""
    if one.shape != other.shape or other.dtype.kind not in "iufb":
        return math.inf
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(np.nan_to_num(apart[_differing(one, other)], nan=math.inf).max())


def _label(step: Step) -> str:
    return _NUMBERED.sub("", step.node.name) or f"{step.node.op_type} -> {step.node.output[0]}"


def _of_this_cpu(op: str) -> str:
    """Why a kernel that is simulated gives something else here."""
    x86, flags = platform.machine() in ("x86_64", "AMD64"), _cpu_flags()
    if x86 and op in _PRODUCTS and "vnni" not in flags:
        return "this CPU's kernel does not sum in full range: without VNNI, x86 saturates (O24)"
    if not x86 or "avx2" not in flags:
        return "this CPU's kernel rounds otherwise than those for x86 with AVX2"
    return "no reason is known: please report it with the file"


@cache
def _cpu_flags() -> str:
    """What Linux says of the processor; elsewhere nothing."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""


def _row(step: Step, count: _Count) -> SimulatedRow:
    why = ""
    if count.own and count.by == "onnxruntime" and step.node.op_type in _PRODUCTS:
        why = "onnxruntime leaves this product undefined: nothing is summed, or scales do not fit"
    elif count.own and count.by == "onnxruntime":
        why = "run alone, this kernel sums floats in another order"
    elif count.own:
        why = _of_this_cpu(step.node.op_type)
    elif count.differing:
        why = f"follows from {count.root}"
    return SimulatedRow(
        name=_label(step),
        op=step.node.op_type,
        by=count.by,
        kind="codes" if count.codes else "values",
        values=count.values,
        differing=count.differing,
        own=count.own,
        largest=count.largest,
        why=why,
    )
