"""calibrate: data through the float model, and a range for every site from what it saw."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qdq.calibration.collecting import Collector
from qdq.data import call, device_of, length, numbered, take_apart, to_device
from qdq.errors import CalibrationError, StepError
from qdq.insertion.fusing import require_eval
from qdq.insertion.switches import quantizers
from qdq.nn import TensorQuantizer, callsites
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import METHODS
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
        method: "mse", "max", "percentile", "entropy" or "coverage".
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
    collector = Collector({site for site, q in _activations(model).items() if q.on})
    steps = track(
        numbered(data, limit=batches), "calibrating", total=length(data, batches), shown=progress
    )
    with torch.no_grad(), _observed(model, collector):
        for index, batch in steps:
            collector.batch = index
            if step is None:
                call(model, to_device(take_apart(batch, index).inputs, where))
            else:
                step(model, batch)
    setattr(model, _HISTOGRAMS, collector.histograms())
    return _choose(model, method, collector.batch + 1)


def choose_ranges(model: nn.Module, method: str) -> CalibrationReport:
    """Ranges by another method from the histograms of the last `calibrate`; no data needed.

    Args:
        model: after `calibrate`.
        method: as for `calibrate`.

    Raises:
        StepError: the model was not calibrated in this process.
        RegistryError: no such method.
    """
    return _choose(model, method, 0)


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


def _choose(model: nn.Module, method: str, batches: int) -> CalibrationReport:
    choose, histograms = METHODS[method], histograms_of(model)
    sites = _activations(model)
    unseen = [site for site, q in sites.items() if site not in histograms and q.on]
    if unseen:
        raise CalibrationError(
            f"{len(unseen)} sites saw no data",
            at=", ".join(unseen[:8]),
            fix="feed a batch that reaches them, or leave their layers out with ignore=",
        )
    rows = []
    for site, hist in histograms.items():
        amin, amax = choose(hist)
        sites[site].set_range(amin, amax, device=device_of(model))
        rows.append(RangeRow(site, amin, amax, hist.amin, hist.amax, hist.total))
    return CalibrationReport(method, batches, tuple(rows))


def _activations(model: nn.Module) -> dict[str, TensorQuantizer]:
    return {site: q for site, q in quantizers(model).items() if not q.dynamic}


@contextmanager
def _observed(model: nn.Module, collector: Collector) -> Iterator[None]:
    """Every activation quantizer shows its tensor to the collector instead of quantizing it."""
    sites = _activations(model).values()
    try:
        for quantizer in sites:
            quantizer.observer = collector.observe
        yield
    except BaseException:
        callsites.reset()
        raise
    finally:
        for quantizer in sites:
            quantizer.observer = None
