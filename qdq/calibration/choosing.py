"""calibrate: data through the float model, and a range for every site from what it saw."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from qdq.calibration.collecting import Clamps, Collector
from qdq.calibration.distribution import (
    failing_together,
    merged_over_ranks,
    own_share,
    rank_and_ranks,
)
from qdq.calibration.ranges import activations, histograms_of, refined, set_ranges
from qdq.calibration.resumption import Resumption
from qdq.data import length, numbered
from qdq.errors import InputError
from qdq.insertion.fusing import require_eval
from qdq.insertion.undo import atomic
from qdq.nn import callsites
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import METHODS
from qdq.progress import track
from qdq.records.calibration import CalibrationReport
from qdq.repair.layers import Reading, Step
from qdq.repair.tiers import TIERS, judges_of, keep_the_best, mend, repairs_of


@atomic
def calibrate(
    model: nn.Module,
    data: Iterable[object],
    *,
    method: str = "mse",
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    tier: str = "plain",
    repair: Collection[str] = (),
    shared: bool = True,
    resume: str | os.PathLike[str] | None = None,
    save_every: int = 16,
    shard: bool = True,
    progress: bool = True,
) -> CalibrationReport:
    """Run the model in float on `data` and set the range of every activation site.

    The sites of all targets are served at once. Weights need no data: their range is their own.
    The histograms stay on the model for `choose_ranges`. They depend on the values alone: any
    order and partition of the same batches gives the same ranges.

    In a process group of torch.distributed all processes call this, and all end with the ranges
    of all data: those of one process bit for bit, with as many threads.

    Args:
        model: after `insert`, in eval mode. Mode and switches are left as they are, and parameters
            where nothing is repaired; after an error all of it, ranges too.
        data: batches of inputs, with or without targets (see `qdq.data`).
        method: "mse", "max", "percentile", "entropy", "coverage", or "auto": for each site the
            one that loses least.
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form.
        tier: "plain", or "best": try the repairs of weights, "rounding" and on top "bias", and
            keep what brings the outputs on the last quarter of the batches closer to float ones.
        repair: repairs to run in any case: "bias", "equalization", "migration", "propagation",
            "rounding"; see `qdq.repair`. Each reads the data again; parameters change.
        shared: the ranges are to serve every target. False: they suit the grids of the model's
            own target, which pays where those are symmetric, as TensorRT's are.
        resume: a file that keeps what was counted, made where it is missing. Found there, the
            batches that it holds are skipped: call again after a crash, with the same data.
        save_every: batches between two writes of that file.
        shard: in a process group, run every n-th batch of `data` in each of n processes; False:
            each has data of its own, from a DistributedSampler for instance.
        progress: show a bar on a terminal.

    Raises:
        InputError: no batch, a batch of another form, NaN, or one the model does not take; or
            `resume` is a file of other data, of another model or of none; or repairs are asked
            for where no process has all the data, or a tier where nothing can judge them.
        CalibrationError: an active site saw nothing, or NaN inside the model; or another process
            failed.
        RegistryError: no such method, tier or repair.
        StepError: training mode, or no quantizers.
    """
    reading = Reading(data, batches, device, step, progress)
    share = rank_and_ranks()
    with failing_together():
        METHODS[method]  # a misspelled name must not cost a pass over the data
        before, after = repairs_of(tier, repair)
        require_eval(model, "calibrate")
        if before or after or TIERS[tier]:
            reading = _all_of(reading, alone=share[1] == 1 or shard)
        if TIERS[tier]:
            judges_of(reading)
        mended = mend(model, reading, before)
        path = None if resume is None else Path(resume)
        state = Resumption(model, path, every=save_every, share=share)
        collector = _collector(model, state)
        found = _counted(model, reading, collector, state, share if shard else (0, 1))
    counted = state.batches, state.samples
    if share[1] > 1:
        found, origin = merged_over_ranks(found, state.origin(collector.dropped))
        counted = origin.batches, origin.samples
    rows = set_ranges(model, method, found, shared=shared)
    mended += mend(model, reading, after)
    mended += keep_the_best(model, reading, TIERS[tier])
    return CalibrationReport(method, *counted, refined(rows, model), mended)


@atomic
def choose_ranges(
    model: nn.Module,
    method: str,
    *,
    shared: bool = True,
    histograms: Mapping[str, Histogram] | None = None,
) -> CalibrationReport:
    """Ranges by another method from the histograms of the last `calibrate`; no data needed.

    Args:
        model: after `calibrate`, or after `insert` with `histograms`.
        method: as for `calibrate`.
        shared: as for `calibrate`.
        histograms: what was counted elsewhere, by site, to take instead.

    Raises:
        StepError: the model was not calibrated in this process.
        CalibrationError: an active site has no histogram.
        RegistryError: no such method.
    """
    found = histograms_of(model) if histograms is None else histograms
    return CalibrationReport(method, 0, 0, set_ranges(model, method, found, shared=shared))


def _all_of(reading: Reading, *, alone: bool) -> Reading:
    """The same data, to be read several times.

    Args:
        reading: the data.
        alone: whether this process reads all of it.
    """
    if not alone:
        raise InputError(
            "repairs need all the data, and with shard=False each process has its own",
            fix="pass the same data in every process and shard=True; or repair in one process",
        )
    if not isinstance(reading.data, Iterator):
        return reading
    batches = [each for _, each in numbered(reading.data, limit=reading.batches)]
    return replace(reading, data=batches)


def _counted(
    model: nn.Module,
    reading: Reading,
    collector: Collector,
    state: Resumption,
    share: tuple[int, int],
) -> dict[str, Histogram]:
    """What the sites see in one share of the batches, with what is left of them."""
    given = numbered(reading.data, limit=reading.batches)
    rest = state.rest(own_share(given, share))
    whole = not state.batches and share[1] == 1
    total = length(reading.data, reading.batches) if whole else None
    with torch.no_grad(), _observed(model, collector):
        for index, batch in track(rest, "calibrating", total=total, shown=reading.progress):
            collector.begin(index)
            reading.forward(model, index, batch)()
            state.count(batch)
            if state.due:
                state.save(collector.histograms(), collector.dropped)
    found = collector.histograms()
    state.save(found, collector.dropped)
    return found


def _collector(model: nn.Module, state: Resumption) -> Collector:
    sites = activations(model)
    collector = Collector(
        required={site for site, q in sites.items() if q.on},
        limits={site: q.limits for site, q in sites.items() if q.limits is not None},
        axes={site: q.spec.keep_axis for site, q in sites.items() if q.spec.keep_axis is not None},
    )
    collector.resume(state.histograms, state.dropped)
    return collector


def _eagerly() -> AbstractContextManager[object]:
    """Compiled code would hide what it calls, and cannot count."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing it takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


@contextmanager
def _observed(model: nn.Module, collector: Collector) -> Iterator[None]:
    """Every activation quantizer shows its tensor to the collector instead of quantizing it."""
    sites = activations(model).values()
    with _eagerly(), Clamps(collector):
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
