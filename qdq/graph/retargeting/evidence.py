"""What both files were run on, and how far apart they came out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from qdq.errors import GraphError
from qdq.graph.edges import Array
from qdq.graph.quantizing.feeding import Feed
from qdq.graph.quantizing.observing import observe
from qdq.graph.retargeting.running import opened, random_feed, run_all
from qdq.graph.retargeting.stripping import Stripped
from qdq.numerics.distance import agreement, sqnr
from qdq.numerics.histogram import Histogram, bin_edges


@dataclass(frozen=True)
class Gap:
    """The outputs of two files on the same inputs.

    Attributes:
        sqnr: of the second's against the first's, dB.
        largest: absolute difference.
        agreement: share of samples of the same class; None where the first output is no (N, C).
    """

    sqnr: float
    largest: float
    agreement: float | None


def random_batches(source: ModelProto, stripped: Stripped, *, at: str) -> list[Feed]:
    """One batch of seeded random inputs within the ranges that the file has for them.

    Empty where the model cannot be run on any that are known to fit.

    Raises:
        GraphError: onnxruntime refuses the model.
    """
    session = opened(source.SerializeToString(), optimize=False, at=at)
    ranges = {name: seen.grid.range for name, seen in stripped.tensors.items()}
    feed = random_feed(session, ranges)
    if feed is None:
        return []
    try:
        run_all(session, [feed], at=at)
    except GraphError:
        return []
    return [feed]


def gap(first: bytes, second: bytes, batches: Sequence[Feed], *, at: str) -> Gap:
    """Run both files as their operators are defined, without optimizations, and compare.

    Raises:
        GraphError: onnxruntime cannot run one of them on these batches.
    """
    sides = [
        run_all(opened(content, optimize=False, at=at), batches, at=at)
        for content in (first, second)
    ]
    pairs = [
        (a, b)
        for one, other in zip(*sides, strict=True)
        for a, b in zip(one, other, strict=True)
        if np.issubdtype(a.dtype, np.floating)
    ]
    reference, own = (_joined([pair[side] for pair in pairs]) for side in (0, 1))
    largest = float(np.max(np.abs(reference - own), initial=0.0))
    scores = [(one[0], other[0]) for one, other in zip(*sides, strict=True)]
    alike = [agreement(a, b) for a, b in scores if _are_scores(a)]
    rows = [len(a) for a, _ in scores if _are_scores(a)]
    same = float(np.average(alike, weights=rows)) if rows and sum(rows) else None
    return Gap(sqnr(reference, own), largest, same)


def clipped_shares(
    stripped: Stripped, model: ModelProto, names: Iterable[str], batches: Sequence[Feed]
) -> dict[str, Histogram]:
    """What tensors see, without any rounding.

    Args:
        stripped: the float graph, not marked yet.
        model: it was made from.
        names: of the tensors.
        batches: what to run it on.

    Returns:
        By name.

    Raises:
        CalibrationError: NaN or infinity.
        GraphError, InputError: onnxruntime cannot run it.
    """
    return observe(stripped.graph, model.opset_import, list(dict.fromkeys(names)), batches)


def share_beyond(hist: Histogram, ends: tuple[float, float]) -> float:
    """Which share of the values lies beyond the ends of a grid, to the width of a bin."""
    near, far = bin_edges(hist.bins)
    beyond = (near >= ends[1]) | (far <= ends[0])
    return float(hist.counts[beyond].sum() / hist.total) if hist.total else 0.0


def _joined(arrays: Sequence[Array]) -> Array:
    if not arrays:
        return np.zeros(0, np.float32)
    return np.concatenate([each.ravel() for each in arrays])


def _are_scores(array: Array) -> bool:
    return array.ndim == 2 and array.shape[1] > 1 and np.issubdtype(array.dtype, np.floating)


def described(batches: Sequence[Feed], *, drawn: bool) -> str:
    """What both files were run on, in words."""
    if not batches:
        return "nothing: no random inputs are known to fit, pass data"
    rows = max((len(each) if each.ndim else 1 for each in batches[0].values()), default=0)
    if drawn:
        kinds = {each.dtype.name for each in batches[0].values()}
        idle = ", integers all 0" if kinds & {"int64", "int32", "bool"} else ""
        noise = "noise, which ranges chosen on data may not fit: pass data"
        return f"{rows} random inputs, seeded{idle} ({noise})"
    total = sum(max(len(each) if each.ndim else 1 for each in feed.values()) for feed in batches)
    return f"{total} samples of the data"


def shares(
    seen: Mapping[str, Histogram], tensor: str, ends: tuple[float, float] | None
) -> float | None:
    """As `share_beyond`, of a tensor; None where it was not seen or has no grid."""
    if tensor not in seen or ends is None:
        return None
    return share_beyond(seen[tensor], ends)
