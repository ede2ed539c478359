"""calibrate: data through the float model, and a range for every site from what it saw."""

import os
import sys
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from qdq.calibration.collecting import Clamps, Collector, site_and_entry
from qdq.calibration.distribution import (
    failing_together,
    merged_over_ranks,
    own_share,
    rank_and_ranks,
)
from qdq.calibration.resumption import Resumption
from qdq.data import device_of, length, numbered
from qdq.errors import CalibrationError, InputError, StepError
from qdq.insertion.fusing import require_eval
from qdq.insertion.switches import quantizers
from qdq.insertion.undo import atomic
from qdq.nn import TensorQuantizer, callsites
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import METHODS, Choice, choose
from qdq.progress import track
from qdq.records.calibration import CalibrationReport, RangeRow
from qdq.repair.layers import HISTOGRAMS, Reading, Step
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
    rows = _choose(model, method, found)
    mended += mend(model, reading, after)
    mended += keep_the_best(model, reading, TIERS[tier])
    return CalibrationReport(method, *counted, _refined(rows, model), mended)


@atomic
def choose_ranges(
    model: nn.Module, method: str, *, histograms: Mapping[str, Histogram] | None = None
) -> CalibrationReport:
    """Ranges by another method from the histograms of the last `calibrate`; no data needed.

    Args:
        model: after `calibrate`, or after `insert` with `histograms`.
        method: as for `calibrate`.
        histograms: what was counted elsewhere, by site, to take instead.

    Raises:
        StepError: the model was not calibrated in this process.
        CalibrationError: an active site has no histogram.
        RegistryError: no such method.
    """
    found = histograms_of(model) if histograms is None else histograms
    return CalibrationReport(method, 0, 0, _choose(model, method, found))


def histograms_of(model: nn.Module) -> dict[str, Histogram]:
    """What the last `calibrate` counted, by site; `site[3]` for an entry with a range of its own.

    Raises:
        StepError: the model was not calibrated in this process.
    """
    histograms: dict[str, Histogram] | None = getattr(model, HISTOGRAMS, None)
    if histograms is None:
        raise StepError(
            "this model keeps no histograms",
            at=type(model).__name__,
            fix="call qdq.calibrate(model, data) first",
        )
    return histograms


def _choose(
    model: nn.Module, method: str, histograms: Mapping[str, Histogram]
) -> tuple[RangeRow, ...]:
    sites = _activations(model)
    seen = _by_site(histograms)
    unseen = [site for site, q in sites.items() if site not in seen and q.on]
    if unseen:
        raise CalibrationError(
            f"{len(unseen)} sites saw no data",
            at=", ".join(unseen[:8]),
            fix="feed a batch that reaches them, or leave their layers out with ignore=",
        )
    known: dict[Hashable, Choice] = {}
    device = device_of(model)
    rows = []
    for site in (site for site in sites if site in seen):
        spec = sites[site].spec
        choices = [_choice(hist, method, 2**spec.bits - 1, known) for hist in seen[site]]
        ends = torch.tensor([(choice.amin, choice.amax) for choice in choices]).T
        sites[site].set_range(*(ends if spec.keep_axis is not None else ends[:, 0]), device=device)
        rows.append(_row(site, ends, choices, seen[site]))
    setattr(model, HISTOGRAMS, dict(histograms))
    return tuple(rows)


def _by_site(histograms: Mapping[str, Histogram]) -> dict[str, list[Histogram]]:
    """Site -> its histogram, or those of its entries in order."""
    found: dict[str, dict[int, Histogram]] = {}
    for name, hist in histograms.items():
        site, entry = site_and_entry(name)
        found.setdefault(site, {})[entry] = hist
    return {site: [entries[i] for i in sorted(entries)] for site, entries in found.items()}


def _choice(hist: Histogram, method: str, levels: int, known: dict[Hashable, Choice]) -> Choice:
    """What `choose` finds; one search for all sites that saw the same values."""
    key = hist.bins.tobytes(), hist.counts.tobytes(), hist.amin, hist.amax, levels
    if key not in known:
        known[key] = choose(hist, method, levels=levels)
    return known[key]


def _row(site: str, ends: torch.Tensor, choices: list[Choice], seen: list[Histogram]) -> RangeRow:
    return RangeRow(
        site=site,
        amin=float(ends[0].min()),  # in float32, as the quantizer holds it
        amax=float(ends[1].max()),
        seen_min=min(hist.amin for hist in seen),
        seen_max=max(hist.amax for hist in seen),
        values=sum(hist.total for hist in seen),
        method=choices[0].method,
        why=choices[0].why,
    )


def _refined(rows: tuple[RangeRow, ...], model: nn.Module) -> tuple[RangeRow, ...]:
    """The rows with the ranges that repairs have left."""
    sites = _activations(model)
    found = []
    for row in rows:
        low, high = sites[row.site].amin, sites[row.site].amax
        assert low is not None
        assert high is not None
        ends = float(low.min()), float(high.max())
        if ends != (row.amin, row.amax):
            why = f"propagation: after {row.why}"
            row = replace(row, amin=ends[0], amax=ends[1], method="propagation", why=why)
        found.append(row)
    return tuple(found)


def _activations(model: nn.Module) -> dict[str, TensorQuantizer]:
    return {site: q for site, q in quantizers(model).items() if not q.dynamic}


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
    sites = _activations(model)
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
    sites = _activations(model).values()
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
