"""calibrate: data through the float model, and a range for every site from what it saw."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from qdq.calibration.collecting import Clamps, Collector
from qdq.data import call, device_of, length, numbered, take_apart, to_device
from qdq.errors import CalibrationError, StepError
from qdq.insertion.fusing import require_eval
from qdq.insertion.switches import quantizers
from qdq.nn import TensorQuantizer, callsites
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import METHODS, Choice, choose
from qdq.progress import track
from qdq.records.calibration import CalibrationReport, RangeRow

_HISTOGRAMS = "_qdq_histograms"
Step = Callable[[nn.Module, object], object]


def calibrate(
    model: nn.Module,
    data: Iterable[object],
    *,
    method: str = "mse",
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    progress: bool = True,
) -> CalibrationReport:
    """Run the model in float on `data` and set the range of every activation site.

    The sites of all targets are served at once. Weights need no data: their range is their own.
    The histograms stay on the model for `choose_ranges`.

    Args:
        model: after `insert`, in eval mode. Parameters, mode and switches are left as they are.
        data: batches of inputs, with or without targets (see `qdq.data`).
        method: "mse", "max", "percentile", "entropy", "coverage", or "auto": for each site the
            one that loses least.
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form.
        progress: show a bar on a terminal.

    Raises:
        InputError: no batch, a batch of another form, NaN, or one the model does not take.
        CalibrationError: an active site saw nothing, or NaN inside the model.
        RegistryError: no such method.
        StepError: training mode, or no quantizers.
    """
    METHODS[method]  # a misspelled name must not cost a pass over the data
    require_eval(model, "calibrate")
    where = device_of(model) if device is None else device
    sites = _activations(model)
    collector = Collector(
        required={site for site, q in sites.items() if q.on},
        limits={site: q.limits for site, q in sites.items() if q.limits is not None},
        axes={site: q.spec.keep_axis for site, q in sites.items() if q.spec.keep_axis is not None},
    )
    steps = track(
        numbered(data, limit=batches), "calibrating", total=length(data, batches), shown=progress
    )
    with torch.no_grad(), _observed(model, collector):
        for index, batch in steps:
            collector.begin(index)
            if step is None:
                call(model, to_device(take_apart(batch, index).inputs, where))
            else:
                step(model, batch)
    return _choose(model, method, collector.histograms(), collector.batch + 1)


def choose_ranges(model: nn.Module, method: str) -> CalibrationReport:
    """Ranges by another method from the histograms of the last `calibrate`; no data needed.

    Args:
        model: after `calibrate`.
        method: as for `calibrate`.

    Raises:
        StepError: the model was not calibrated in this process.
        RegistryError: no such method.
    """
    return _choose(model, method, histograms_of(model), 0)


def histograms_of(model: nn.Module) -> dict[str, Histogram]:
    """What the last `calibrate` counted, by site.

    Raises:
        StepError: the model was not calibrated in this process.
    """
    histograms: dict[str, Histogram] | None = getattr(model, _HISTOGRAMS, None)
    if histograms is None:
        raise StepError(
            "this model keeps no histograms",
            at=type(model).__name__,
            fix="call qdq.calibrate(model, data) first",
        )
    return histograms


def _choose(
    model: nn.Module, method: str, histograms: Mapping[str, Histogram], batches: int
) -> CalibrationReport:
    """Every range is found before the first is set."""
    sites = _activations(model)
    seen: dict[str, list[Histogram]] = {}
    for name, hist in histograms.items():
        seen.setdefault(name.partition("[")[0], []).append(hist)
    unseen = [site for site, q in sites.items() if site not in seen and q.on]
    if unseen:
        raise CalibrationError(
            f"{len(unseen)} sites saw no data",
            at=", ".join(unseen[:8]),
            fix="feed a batch that reaches them, or leave their layers out with ignore=",
        )
    known: dict[Hashable, Choice] = {}
    chosen = {
        site: [_choice(hist, method, 2 ** sites[site].spec.bits - 1, known) for hist in entries]
        for site, entries in seen.items()
    }
    device = device_of(model)
    for site, choices in chosen.items():
        ends = [[each.amin for each in choices], [each.amax for each in choices]]
        whole = sites[site].spec.keep_axis is None
        sites[site].set_range(*torch.tensor(ends).squeeze(1 if whole else ()), device=device)
    setattr(model, _HISTOGRAMS, dict(histograms))
    rows = tuple(_row(site, choices, seen[site]) for site, choices in chosen.items())
    return CalibrationReport(method, batches, rows)


def _choice(hist: Histogram, method: str, levels: int, known: dict[Hashable, Choice]) -> Choice:
    """What `choose` finds; one search for all sites that saw the same values."""
    key = hist.bins.tobytes(), hist.counts.tobytes(), hist.amin, hist.amax, levels
    if key not in known:
        known[key] = choose(hist, method, levels=levels)
    return known[key]


def _row(site: str, choices: list[Choice], seen: list[Histogram]) -> RangeRow:
    return RangeRow(
        site=site,
        amin=min(choice.amin for choice in choices),
        amax=max(choice.amax for choice in choices),
        seen_min=min(hist.amin for hist in seen),
        seen_max=max(hist.amax for hist in seen),
        values=sum(hist.total for hist in seen),
        method=choices[0].method,
        why=choices[0].why,
    )


def _activations(model: nn.Module) -> dict[str, TensorQuantizer]:
    return {site: q for site, q in quantizers(model).items() if not q.dynamic}


@contextmanager
def _observed(model: nn.Module, collector: Collector) -> Iterator[None]:
    """Every activation quantizer shows its tensor to the collector instead of quantizing it."""
    sites = _activations(model).values()
    try:
        for quantizer in sites:
            quantizer.observer = collector.observe
        with Clamps(collector):
            yield
    except BaseException:
        callsites.reset()
        raise
    finally:
        for quantizer in sites:
            quantizer.observer = None
