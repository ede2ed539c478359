"""validate: an ONNX file in onnxruntime against the models it was made from."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qdq.data import Batch, Inputs, length, read, tensors_of
from qdq.errors import InputError
from qdq.graph.coverage import integer_layers, optimized_ops
from qdq.graph.files import load, noted_target
from qdq.graph.simulation.comparison import Comparison
from qdq.numerics.distance import agreement, sqnr
from qdq.progress import track
from qdq.records.validation import ComparisonRow, ValidationReport
from qdq.validation.layers import LayerComparison
from qdq.validation.running import Runner, feed, onnx_runner, session, torch_runner

Array: TypeAlias = NDArray[Any]
Metric: TypeAlias = Callable[[Array, Array], float]
Reference: TypeAlias = nn.Module | str | os.PathLike[str]


def top1(outputs: Array, targets: Array) -> float:
    """Share of rows whose largest class score is the target.

    Args:
        outputs: (N, C, ...) scores.
        targets: (N, ...) class numbers.

    Raises:
        InputError: they are of other shapes.
    """
    if outputs.ndim < 2 or targets.shape != (len(outputs), *outputs.shape[2:]):
        raise InputError(
            f"targets {targets.shape} are no classes of outputs {outputs.shape}",
            fix="pass class numbers (N, ...) for scores (N, C, ...), a metric of your own, or "
            "batches without targets",
        )
    return float(np.mean(outputs.argmax(axis=1) == targets))


def validate(
    path: str | os.PathLike[str],
    data: Iterable[object],
    *,
    reference: Reference | Mapping[str, Reference] | None = None,
    metric: Metric | None = None,
    providers: Sequence[str] | None = None,
    batches: int | None = None,
    optimize: bool = True,
    layers: bool = False,
    exact: bool = False,
    progress: bool = True,
) -> ValidationReport:
    """Run the file in onnxruntime and compare its first output with each reference's.

    With `layers`, every quantized tensor of the file is compared too, in codes: with the sites of a
    torch model (as it is switched, or as floats where it has no quantizers), or with the tensors of
    another file that have the same names. That looks at the file as it is written, node by node.

    With `exact`, the graph that onnxruntime makes of the file is also simulated in numpy, code for
    code, and what is not as predicted is explained (see `qdq.graph.simulation`).

    Args:
        path: an ONNX file, of this package or not.
        data: batches of inputs, with targets or without (see `qdq.data`).
        reference: a torch model or another ONNX file, or several by name.
        metric: metric(outputs, targets) -> float; None: top-1 accuracy where there are targets.
        providers: onnxruntime's execution providers; None: the CPU's.
        batches: read so many at most; None for all.
        optimize: let onnxruntime rewrite the graph, as in deployment; False: node by node.
        layers: compare tensor by tensor with each reference.
        exact: simulate onnxruntime's CPU provider, with all its optimizations.
        progress: show a bar on a terminal.

    Raises:
        GraphError: no such file, no valid ONNX, or onnxruntime refuses it.
        InputError: no batch, a batch of another form, or one that a runner does not take; `layers`
            without a reference, or with one that has none of the tensors; `exact` of another
            provider.
    """
    target = noted_target(load(path))
    given = reference if isinstance(reference, Mapping) else {"reference": reference}
    named = {name: each for name, each in given.items() if each is not None}
    _require_possible(named, providers, layers=layers, exact=exact)
    own = session(path, providers=providers, optimize=optimize)
    runners = {"": onnx_runner(own)} | {name: _runner(each) for name, each in named.items()}
    compared = LayerComparison(path, named) if layers else None
    simulated = Comparison(path) if exact else None
    looks: list[Callable[[Inputs], None]] = [] if compared is None else [compared.add]
    if simulated is not None:
        looks.append(lambda inputs: simulated.add(feed(own, inputs)))
    outputs, targets = _run_all(runners, looks, data, batches, progress)
    measure = None if targets is None else (metric or top1)
    ops = optimized_ops(path)
    integer, weighted = integer_layers(ops)
    return ValidationReport(
        path=str(path),
        target="" if target is None else target.label,
        samples=len(outputs[""]),
        metric_name="" if measure is None else measure.__name__,
        metric=_measured(measure, outputs[""], targets),
        bytes=Path(path).stat().st_size,
        ops=ops,
        integer_layers=integer,
        layers=weighted,
        note="" if target is None else target.note,
        rows=tuple(
            _compare(name, each, outputs[""], _measured(measure, each, targets))
            for name, each in outputs.items()
            if name
        ),
        tensors=() if compared is None else compared.reports(),
        exact=None if simulated is None else simulated.report(),
    )


def _require_possible(
    references: Mapping[str, Reference],
    providers: Sequence[str] | None,
    *,
    layers: bool,
    exact: bool,
) -> None:
    """InputError where `layers` or `exact` have nothing to work on."""
    if layers and not references:
        raise InputError(
            "layers=True compares with a reference, and there is none",
            fix="pass reference=, a torch model or another ONNX file",
        )
    if exact and list(providers or ["CPUExecutionProvider"]) != ["CPUExecutionProvider"]:
        raise InputError(
            f"exact=True simulates onnxruntime's CPU provider, not {', '.join(providers or ())}",
            fix="pass providers=None",
        )


def _runner(reference: Reference) -> Runner:
    if isinstance(reference, nn.Module):
        return torch_runner(reference)
    return onnx_runner(session(reference))


def _run_all(
    runners: dict[str, Runner],
    looks: Sequence[Callable[[Inputs], None]],
    data: Iterable[object],
    batches: int | None,
    progress: bool,
) -> tuple[dict[str, Array], Array | None]:
    """First outputs of every runner, and the targets, each over all batches; all look on."""
    parts: dict[str, list[Array]] = {name: [] for name in runners}
    targets: list[Array] = []
    steps = track(
        read(data, limit=batches), "validating", total=length(data, batches), shown=progress
    )
    for batch in steps:
        for name, run in runners.items():
            parts[name].append(run(batch.inputs)[0])
        for look in looks:
            look(batch.inputs)
        targets.extend(targets_of(batch))
    joined = {
        name: np.concatenate([np.atleast_1d(part) for part in each]) for name, each in parts.items()
    }
    if not len(joined[""]):
        raise InputError("the batches hold no rows", fix="pass at least one row")
    for name, each in joined.items():
        if each.shape != joined[""].shape:
            raise InputError(
                f"{name} gives {each.shape} and the file {joined[''].shape}",
                fix="compare with the model that was exported",
            )
    return joined, np.concatenate(targets) if targets else None


def targets_of(batch: Batch) -> list[Array]:
    """The batch's target as a list of one array, or an empty one."""
    return [tensor.cpu().numpy() for tensor in tensors_of(batch.target)[:1]]


def _measured(measure: Metric | None, outputs: Array, targets: Array | None) -> float | None:
    return None if measure is None or targets is None else measure(outputs, targets)


def _compare(name: str, reference: Array, own: Array, metric: float | None) -> ComparisonRow:
    scores = (each if each.ndim > 1 else each[:, None] for each in (reference, own))
    return ComparisonRow(
        reference=name,
        metric=metric,
        agreement=agreement(*scores),
        sqnr_db=sqnr(reference, own),
        largest=float(np.max(np.abs(reference.astype(np.float64) - own))),
    )
