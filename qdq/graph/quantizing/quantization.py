"""quantize: anyone's float ONNX file into one with Q and DQ, calibrated in onnxruntime."""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from qdq.errors import CalibrationError
from qdq.graph.explaining.explanation import explain
from qdq.graph.quantizing.certifying import compare_outputs, outputs_of
from qdq.graph.quantizing.feeding import Data, Feed, feeds
from qdq.graph.quantizing.marking import watched_tensors
from qdq.graph.quantizing.observing import observe
from qdq.graph.quantizing.planning import Plan, plan_for
from qdq.graph.quantizing.writing import Written, write_marked
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import AUTO, METHODS, Choice, choose
from qdq.progress import track
from qdq.records.base import written_whole
from qdq.records.calibration import RangeRow
from qdq.records.quantizing import OutputRow, QuantizationReport
from qdq.sites import Patterns
from qdq.targets import Target, get
from qdq.targets.target import TargetLike

BEST = "best"
_SAME = 200.0  # dB, more than float32 tells apart
_KEPT_BATCHES, _KEPT_BYTES = 8, 1 << 28  # of the data, to compare the two files on


def quantize(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    data: Data,
    *,
    target: TargetLike,
    method: str = "mse",
    ignore: Patterns = (),
    batches: int | None = None,
    skip_passes: Collection[str] = (),
    progress: bool = True,
) -> QuantizationReport:
    """Make of a float ONNX file, whoever wrote it, one with Q and DQ where a runtime wants them.

    The float graph runs in onnxruntime on the data, and what each tensor sees is counted, in
    memory that does not grow with the data. Placement, ranges, codes and names are those of a
    torch model's way; so are the rewrites for speed. No torch is needed.

    Equal files and data give equal bytes.

    Args:
        src: float, of opset 9 or newer; below 13 it is converted to 13. BatchNormalizations are
            folded, half precision becomes float32 but in inputs and outputs, and what onnxruntime
            knows and we do not stays float.
        dst: where to write; whole or not at all. It may be `src`.
        data: batches of arrays by input name, read once; of a file with one input the arrays
            alone, or one array with all rows. They are as the float model takes them.
        target: the runtime, by name or as a Target.
        method: "mse", "max", "percentile", "entropy", "coverage"; "auto": for each tensor the one
            that loses least; or "best": the one of these whose outputs come closest to float ones
            on the first batches. Weights are quantized by their largest values.
        ignore: what stays float: globs, 're:...' and from-tos ('a->b') of nodes' names; globs and
            're:...' of operators too.
        batches: read so many at most; None for all.
        skip_passes: speed passes of the target that shall not run, by the names that
            `report.passes` has.
        progress: show a bar on a terminal.

    Raises:
        GraphError: the file cannot be read, is quantized already, has nothing to quantize, or
            onnxruntime refuses it; the text says which.
        InputError: no data, data that does not fit the inputs, or `dst` cannot be written.
        CalibrationError: the float model makes NaN or infinity, or nothing, of the data.
        PolicyError: a pattern of `ignore` cannot be read, or fits nothing.
        RegistryError: no such target, method or pass.
    """
    runtime, source = get(target), Path(src)
    methods = _methods(method)
    with written_whole(Path(dst)) as temporary:
        plan = plan_for(source, runtime, ignore)
        steps = track(feeds(plan.graph.inputs, data, batches), "calibrating", shown=progress)
        given = _Remembering(steps)
        seen = _seen(plan, given, source)
        reference = outputs_of(source, given.kept)
        trials = []
        for each in methods:
            ranges = _ranges(seen, each, runtime)
            written = write_marked(plan, ranges, runtime, temporary, skip_passes=skip_passes)
            outputs = compare_outputs(reference, outputs_of(temporary, given.kept))
            trials.append(_Trial(each, ranges, written, outputs))
        best = max(trials, key=lambda trial: trial.closeness)  # of equals, the first
        temporary.write_bytes(best.written.content)
        work = explain(temporary, runtime, sizes=_sizes(plan.graph.inputs, given.kept[0]))
    return QuantizationReport(
        source=str(src),
        path=str(dst),
        target=runtime.name,
        opset=work.opset,
        method=best.method,
        batches=given.count,
        rows=plan.rows,
        ranges=tuple(_row(site, best.ranges[site], seen[site]) for site in seen),
        notes=(*plan.notes, *_comparison(trials)),
        outputs=best.outputs,
        checked=len(given.kept),
        integer_macs=work.integer_macs,
        macs=work.macs,
        source_bytes=plan.size,
        bytes=len(best.written.content),
        sha256=hashlib.sha256(best.written.content).hexdigest(),
        passes=best.written.passes,
    )


@dataclass(frozen=True, eq=False)
class _Trial:
    """A file with the ranges of one method.

    Attributes:
        method: its name.
        ranges: by site.
        written: the file.
        outputs: how close they come.
    """

    method: str
    ranges: dict[str, Choice]
    written: Written
    outputs: tuple[OutputRow, ...]

    @property
    def closeness(self) -> float:
        """Mean SQNR of the outputs, dB; of one that is the same, `_SAME`."""
        found = [row.sqnr_db for row in self.outputs] or [_SAME]
        return float(np.mean(np.clip(found, -_SAME, _SAME)))


def _methods(method: str) -> tuple[str, ...]:
    """The methods to try: one, which there is, or all that there are."""
    if method == BEST:
        return tuple(name for name in METHODS if name != AUTO)
    METHODS[method]  # a misspelled name must not cost a pass over the data
    return (method,)


def _comparison(trials: Sequence[_Trial]) -> tuple[str, ...]:
    if len(trials) == 1:
        return ()
    found = sorted(trials, key=lambda trial: -trial.closeness)
    return ("of all methods: " + ", ".join(f"{x.method} {x.closeness:.1f} dB" for x in found),)


@dataclass(eq=False)
class _Remembering:
    """Batches as they come, of which the first are kept.

    Attributes:
        batches: where they come from.
        kept: the first ones.
        count: how many came.
    """

    batches: Iterator[Feed]
    kept: list[Feed] = field(default_factory=list)
    count: int = 0

    def __iter__(self) -> Iterator[Feed]:
        held = 0
        for feed in self.batches:
            self.count += 1
            held += sum(each.nbytes for each in feed.values())
            if not self.kept or (len(self.kept) < _KEPT_BATCHES and held <= _KEPT_BYTES):
                self.kept.append(feed)
            yield feed


def _seen(plan: Plan, batches: Iterable[Feed], source: Path) -> dict[str, Histogram]:
    """Of each activation that is quantized, what it saw."""
    watched = watched_tensors(plan.graph, plan.products, plan.sites)
    names = list(dict.fromkeys(each.name for each in watched.values()))
    opsets = plan.model.opset_import
    found = observe(plan.graph, opsets, names, batches, at=str(source))
    unseen = [name for name in names if not found[name].total]
    if unseen:
        raise CalibrationError(
            f"{len(unseen)} tensors hold no values on this data",
            at=", ".join(unseen[:8]),
            fix="feed a batch with which they are not empty",
        )
    return {site: found[each.name] for site, each in watched.items()}


def _ranges(seen: Mapping[str, Histogram], method: str, target: Target) -> dict[str, Choice]:
    """One search for all sites that saw the same tensor."""
    levels = 2**target.activation.bits - 1
    known: dict[int, Choice] = {}
    for hist in seen.values():
        if id(hist) not in known:
            known[id(hist)] = choose(hist, method, levels=levels)
    return {site: known[id(hist)] for site, hist in seen.items()}


def _row(site: str, choice: Choice, seen: Histogram) -> RangeRow:
    return RangeRow(
        site=site,
        amin=float(np.float32(choice.amin)),  # as the grid is made of it
        amax=float(np.float32(choice.amax)),
        seen_min=seen.amin,
        seen_max=seen.amax,
        values=seen.total,
        method=choice.method,
        why=choice.why,
    )


def _sizes(inputs: Iterable[gs.Tensor], feed: Feed) -> dict[str, int]:
    """Lengths of the dimensions with names in a batch, for counting MACs; of rows, one."""
    found: dict[str, int] = {}
    for tensor in inputs:
        names: Sequence[object] = tensor.shape or ()
        for axis, (name, length) in enumerate(zip(names, feed[tensor.name].shape, strict=False)):
            if isinstance(name, str):
                found.setdefault(name, length if axis else 1)
    return found
