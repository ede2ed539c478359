"""A range for every site, from its histogram."""

from collections.abc import Hashable, Mapping
from dataclasses import replace

import torch
from torch import nn

from qdq.calibration.collecting import site_and_entry
from qdq.data import device_of
from qdq.errors import CalibrationError, StepError
from qdq.insertion.switches import quantizers
from qdq.nn import TensorQuantizer
from qdq.numerics.grids import Grid
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import Choice, choose
from qdq.records.calibration import RangeRow
from qdq.repair.layers import HISTOGRAMS


def activations(model: nn.Module) -> dict[str, TensorQuantizer]:
    """The quantizers that have a range to be found, by site."""
    return {site: q for site, q in quantizers(model).items() if not q.dynamic}


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


def set_ranges(
    model: nn.Module, method: str, histograms: Mapping[str, Histogram], *, shared: bool
) -> tuple[RangeRow, ...]:
    """Give every activation site that has a histogram its range.

    Args:
        model: after `insert`.
        method: a name in `METHODS`.
        histograms: by site; they stay on the model.
        shared: search on the affine grid, for any target, and not on the site's own.

    Raises:
        CalibrationError: an active site has no histogram.
        RegistryError: no such method.
    """
    sites = activations(model)
    seen = _by_site(histograms)
    unseen = [site for site, q in sites.items() if site not in seen and q.on]
    if unseen:
        raise CalibrationError(
            f"{len(unseen)} sites saw no data, or infinity when they were off",
            at=", ".join(unseen[:8]),
            fix="feed a batch that reaches them, or leave their layers out with ignore=",
        )
    known: dict[Hashable, Choice] = {}
    device = device_of(model)
    rows = []
    for site in (site for site in sites if site in seen):
        spec = sites[site].spec
        grid = Grid(2**spec.bits - 1, spec.symmetric and not shared)
        choices = [_choice(hist, method, grid, known) for hist in seen[site]]
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


def _choice(hist: Histogram, method: str, grid: Grid, known: dict[Hashable, Choice]) -> Choice:
    """What `choose` finds; one search for all sites that saw the same values."""
    key = hist.bins.tobytes(), hist.counts.tobytes(), hist.amin, hist.amax, grid
    if key not in known:
        known[key] = choose(hist, method, levels=grid.levels, symmetric=grid.symmetric)
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


def refined(rows: tuple[RangeRow, ...], model: nn.Module) -> tuple[RangeRow, ...]:
    """The rows with the ranges that repairs have left."""
    sites = activations(model)
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
