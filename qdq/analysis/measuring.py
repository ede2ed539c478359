"""sensitivity: quantize one layer at a time, or all but one, and see what the output loses."""

import glob
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qdq.data import read
from qdq.errors import InputError, SpecError
from qdq.insertion.fusing import require_eval
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.numerics.distance import sqnr
from qdq.progress import track
from qdq.records.ranking import SensitivityReport, SensitivityRow
from qdq.sites import owner
from qdq.validation.comparing import Metric, targets_of, top1
from qdq.validation.running import torch_runner

Array: TypeAlias = NDArray[Any]
Mode: TypeAlias = Literal["one_on", "one_off"]


def sensitivity(
    model: nn.Module,
    data: Iterable[object],
    *,
    metric: Metric | None = None,
    mode: Mode = "one_on",
    batches: int | None = None,
    progress: bool = True,
) -> SensitivityReport:
    """Rank the layers by what their quantization costs.

    A layer is a module with quantizers; all its sites are switched together, the others' stay as
    the mode says. The switches are put back. One pass over the data per layer, and two more.

    Args:
        model: after `insert` and `calibrate`, in eval mode.
        data: batches with or without targets (see `qdq.data`); read into memory once.
        metric: metric(outputs, targets) -> float, larger is better; the score is then its fall.
            None: the score is noise power over signal power of the first output, and top-1
            accuracy is shown where there are targets.
        mode: "one_on", only one layer quantized at a time, against float; "one_off", all but one,
            against the model as it is.
        batches: read so many at most; None for all.
        progress: show a bar on a terminal.

    Raises:
        StepError: training mode, or no quantizers.
        CalibrationError: a site has no range.
        InputError: no batch, a batch of another form, or a metric without targets.
        SpecError: no such mode.
    """
    if mode not in ("one_on", "one_off"):
        raise SpecError(f"no mode {mode!r}", fix="pass 'one_on' or 'one_off'")
    require_eval(model, "sensitivity")
    kept = list(read(data, limit=batches))
    run = torch_runner(model)
    found_targets = [array for batch in kept for array in targets_of(batch)]
    targets = np.concatenate(found_targets) if found_targets else None
    if metric is not None and targets is None:
        raise InputError(
            "a metric needs targets, and the batches hold none",
            fix="yield (inputs, target), or leave metric out",
        )
    measure = None if targets is None else (metric or top1)

    def outputs() -> Array:
        return np.concatenate([run(batch.inputs)[0] for batch in kept])

    with disable_quantization(model):
        reference = outputs()
    baseline_output = reference if mode == "one_on" else outputs()

    def figures(found: Array) -> tuple[float, float | None]:
        value = None if measure is None or targets is None else measure(found, targets)
        return sqnr(reference, found), value

    before_db, baseline = figures(baseline_output)
    rows = []
    for layer in track(_layers(model), f"sensitivity, {mode}", shown=progress):
        with _switched(model, layer, mode):
            db, value = figures(outputs())
        cost = 10 ** (-db / 10)
        score = cost if mode == "one_on" else 10 ** (-before_db / 10) - cost
        if metric is not None and value is not None and baseline is not None:
            score = baseline - value if mode == "one_on" else value - baseline
        rows.append(SensitivityRow(layer, score, db, value))
    rows.sort(key=lambda row: (-row.score, row.layer))
    name = "" if measure is None else getattr(measure, "__name__", "metric")
    return SensitivityReport(mode, name, baseline, len(reference), tuple(rows))


def _layers(model: nn.Module) -> list[str]:
    """Modules that quantize now, in order."""
    return list(dict.fromkeys(owner(site) for site, q in quantizers(model).items() if q.on))


@contextmanager
def _switched(model: nn.Module, layer: str, mode: Mode) -> Iterator[None]:
    """Only this layer on, or all but this layer; leaving puts every switch back.

    A layer alone keeps the sites that it has in the whole: what a target would do with it if
    everything around were float is another question.
    """
    sites = quantizers(model)
    own = [site for site, q in sites.items() if owner(site) == layer and q.enabled]
    if mode == "one_off":
        with disable_quantization(model, [glob.escape(site) for site in own]):
            yield
        return
    before = [(quantizer, quantizer.enabled) for quantizer in sites.values()]
    try:
        for site, quantizer in sites.items():
            quantizer.enabled = site in own
        yield
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled
