"""Counting what the sites of a model see in its float passes."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from qdq.errors import CalibrationError
from qdq.numerics.counters import Total
from qdq.numerics.counting import count
from qdq.numerics.histogram import Histogram, clamped, not_finite
from qdq.targets.opgraph import CLAMPS

Identity: TypeAlias = tuple[object, ...]
Clamp: TypeAlias = tuple[float, float]

UNCLAMPED: Clamp = (-inf, inf)


class Seen(NamedTuple):
    """What one tensor holds: the values counted in `hist`, behind a clamp."""

    hist: Histogram
    clamp: Clamp = UNCLAMPED


class Sum(NamedTuple):
    """All that a site has seen: the values added up in `total`, behind a clamp."""

    total: Total
    clamp: Clamp = UNCLAMPED

    def histogram(self) -> Histogram:
        """Of the clamped values."""
        hist = self.total.histogram()
        return hist if self.clamp == UNCLAMPED else clamped(hist, *self.clamp)


@dataclass
class Collector:
    """An observer for every quantizer of one model.

    A tensor that several sites of one forward see is counted once, and what a ReLU makes of it is
    not counted at all; sites that have seen the same from the start share one total.

    Attributes:
        required: sites that must be finite; another that is not, the mask of an attention, is
            left without a histogram.
        limits: site -> ends of the clamp that its values will pass.
        axes: site -> the axis whose entries get a histogram each, `site[0]`, `site[1]` and on.
        batch: number of the batch that is running.
        dropped: sites that were not finite and needed not be.
    """

    required: Collection[str] = ()
    limits: Mapping[str, Clamp] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    batch: int = -1
    dropped: set[str] = field(default_factory=set)
    _sums: dict[str, dict[str, Sum]] = field(default_factory=dict)
    _new: dict[str, dict[str, list[Seen]]] = field(default_factory=dict)  # in this batch
    _counted: dict[Identity, tuple[TensorWeakRef, Seen]] = field(default_factory=dict)

    def begin(self, batch: int) -> None:
        """The batch of this number is what comes next."""
        self._add_up()
        self.batch = batch
        self._counted.clear()

    def observe(self, site: str, x: Tensor) -> None:
        """Add the values of x, whatever its floating dtype and layout, to the site's histogram.

        Raises:
            CalibrationError: x holds NaN or infinity, and the site is required.
        """
        if site in self.dropped or not x.numel():
            return
        for name, seen in self._seen(site, x):
            if self._is_finite(site, seen.hist):
                self._new.setdefault(site, {}).setdefault(name, []).append(seen)
                continue
            if site in self.required:
                raise CalibrationError(
                    f"batch {self.batch} makes NaN or infinity here: {not_finite(seen.hist)} of "
                    f"{seen.hist.total} values",
                    at=name,
                    fix="the float model is broken on this batch: look at the layers before this "
                    "site",
                )
            self.dropped.add(site)
            self._sums.pop(site, None)
            self._new.pop(site, None)
            return

    def resume(self, histograms: Mapping[str, Histogram], dropped: Collection[str]) -> None:
        """Start from what another collector had."""
        self.dropped.update(dropped)
        for name, hist in histograms.items():
            site, _ = site_and_entry(name)
            self._new.setdefault(site, {}).setdefault(name, []).append(Seen(hist))

    def histograms(self) -> dict[str, Histogram]:
        """Name -> histogram, of every site that saw a value."""
        self._add_up()
        return {
            name: clamped(each.histogram(), *self.limits.get(site, UNCLAMPED))
            for site, sums in self._sums.items()
            for name, each in sums.items()
        }

    def _add_up(self) -> None:
        """Take what is new into the sums, once for all that have seen the same."""
        sharers = Counter(id(each.total) for sums in self._sums.values() for each in sums.values())
        alike: dict[tuple[int, ...], list[tuple[str, str, Sum, list[Seen]]]] = {}
        fresh = Total()
        for site, news in self._new.items():
            for name, seen in news.items():
                old = self._sums.get(site, {}).get(name, Sum(fresh, seen[0].clamp))
                if any(each.clamp != old.clamp for each in seen):
                    old, seen = _unclamped(old, seen)
                key = (id(old.total), *(id(each.hist) for each in seen))
                alike.setdefault(key, []).append((site, name, old, seen))
        for members in alike.values():
            _, _, old, seen = members[0]
            # Others, who saw something else, go on from what the sum was.
            alone = sharers[id(old.total)] == len(members)
            total = old.total if alone else old.total.copy()
            for each in seen:
                total.add(each.hist)
            for site, name, old, _ in members:
                self._sums.setdefault(site, {})[name] = Sum(total, old.clamp)
        self._new.clear()

    def _seen(self, site: str, x: Tensor) -> Iterator[tuple[str, Seen]]:
        axis = self.axes.get(site)
        if axis is None:
            yield site, self._shared(x)
            return
        for index, entry in enumerate(x.unbind(axis)):
            yield f"{site}[{index}]", Seen(count(entry))

    def _shared(self, x: Tensor) -> Seen:
        """What x holds, counted anew only where it is not known yet."""
        seen = self.known(x)
        if seen is None:
            seen = Seen(count(x))
            self.remember(x, seen)
        return seen

    def known(self, x: Tensor) -> Seen | None:
        """What this very tensor holds, not written to since; None where nobody counted it."""
        if not _has_identity(x):
            return None
        tensor, seen = self._counted.get(_identity(x), (None, None))
        alive = None if tensor is None else tensor()
        # One that is gone, or was given other memory, may have left its own to x.
        same = alive is x or (alive is not None and _identity(alive) == _identity(x))
        return seen if same else None

    def remember(self, x: Tensor, seen: Seen) -> None:
        """X holds this, for as long as the batch runs and x lives unchanged."""
        if _has_identity(x):
            self._counted[_identity(x)] = TensorWeakRef(x), seen

    def _is_finite(self, site: str, hist: Histogram) -> bool:
        low, high = self.limits.get(site, UNCLAMPED)
        # NaN, which comes first, stays with Python's max and min, and compares to False.
        return max(hist.amin, low) > -inf and min(hist.amax, high) < inf


class Clamps(TorchFunctionMode):
    """Follows the ReLUs of a forward: what one makes of a counted tensor need not be counted."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        limits = CLAMPS.get(getattr(func, "__name__", "").removesuffix("_"))
        x = args[0] if args and limits is not None else None
        seen = self._collector.known(x) if isinstance(x, Tensor) else None
        result = func(*args, **kwargs)
        if limits is not None and seen is not None and isfinite(seen.hist.amin + seen.hist.amax):
            low, high = limits
            first, last = (min(max(end, low), high) for end in seen.clamp)
            self._collector.remember(result, Seen(seen.hist, (first, last)))
        return result


def _unclamped(old: Sum, seen: list[Seen]) -> tuple[Sum, list[Seen]]:
    """The same values, counted behind their clamps."""
    total, before = Total(), old.histogram()
    if before.total:
        total.add(before)
    return Sum(total), [Seen(clamped(each.hist, *each.clamp)) for each in seen]


def _identity(x: Tensor) -> Identity:
    return x.data_ptr(), x._version, x.shape, x.stride(), x.dtype, x.is_neg()


def _has_identity(x: Tensor) -> bool:
    # An inference tensor does not know whether it was written to; others have no one memory.
    return not (x.is_inference() or x.is_nested) and x.layout == torch.strided


def site_and_entry(name: str) -> tuple[str, int]:
    """`conv1.input[3]` -> ("conv1.input", 3); a site without entries has number 0."""
    site, bracket, entry = name.rpartition("[")
    numbered = bracket and entry.endswith("]") and entry[:-1].isdecimal()
    return (site, int(entry[:-1])) if numbered else (name, 0)
