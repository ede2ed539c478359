"""Counting what the sites of a model see in its float passes."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeAlias

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


@dataclass
class Collector:
    """An observer for every quantizer of one model.

    A tensor that several sites of one forward see is counted once.

    Attributes:
        required: sites that must be finite; another that is not, the mask of an attention, is
            left without a histogram.
        limits: site -> ends of the clamp that its values will pass.
        axes: site -> the axis whose entries get a histogram each, `site[0]`, `site[1]` and on.
        batch: number of the batch that is running.
        dropped: sites that were not finite and needed not be.
    """

    required: Collection[str] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    batch: int = -1
    dropped: set[str] = field(default_factory=set)
    _totals: dict[str, dict[str, Total]] = field(default_factory=dict)
    _counted: dict[Identity, tuple[TensorWeakRef, Histogram]] = field(default_factory=dict)

    def begin(self, batch: int) -> None:
        """The batch of this number is what comes next."""
        self.batch = batch
        self._counted.clear()

    def observe(self, site: str, x: Tensor) -> None:
        """Add the values of x, whatever its floating dtype and layout, to the site's histogram.

        Raises:
            CalibrationError: x holds NaN or infinity, and the site is required.
        """
        if site in self.dropped or not x.numel():
            return
        for name, hist in self._histograms(site, x):
            if self._is_finite(site, hist):
                self._totals.setdefault(site, {}).setdefault(name, Total()).add(hist)
                continue
            if site in self.required:
                raise CalibrationError(
                    f"batch {self.batch} makes NaN or infinity here: {not_finite(hist)} of "
                    f"{hist.total} values",
                    at=name,
                    fix="the float model is broken on this batch: look at the layers before this "
                    "site",
                )
            self.dropped.add(site)
            self._totals.pop(site, None)
            return

    def resume(self, histograms: Mapping[str, Histogram], dropped: Collection[str]) -> None:
        """Start from what another collector had."""
        self.dropped.update(dropped)
        for name, hist in histograms.items():
            site, _ = site_and_entry(name)
            self._totals.setdefault(site, {}).setdefault(name, Total()).add(hist)

    def histograms(self) -> dict[str, Histogram]:
        """Name -> histogram, of every site that saw a value."""
        return {
            name: clamped(total.histogram(), *self.limits.get(site, (-inf, inf)))
            for site, totals in self._totals.items()
            for name, total in totals.items()
        }

    def _histograms(self, site: str, x: Tensor) -> Iterator[tuple[str, Histogram]]:
        axis = self.axes.get(site)
        if axis is None:
            yield site, self._shared(x)
            return
        for index, entry in enumerate(x.unbind(axis)):
            yield f"{site}[{index}]", count(entry)

    def _shared(self, x: Tensor) -> Histogram:
        """The histogram of x, counted anew only where it is not known yet."""
        hist = self.known(x)
        if hist is None:
            hist = count(x)
            self.remember(x, hist)
        return hist

    def known(self, x: Tensor) -> Histogram | None:
        """The histogram of this very tensor, not written to since; None where nobody has it."""
        if not _has_identity(x):
            return None
        tensor, hist = self._counted.get(_identity(x), (None, None))
        alive = None if tensor is None else tensor()
        # One that is gone, or was given other memory, may have left its own to x.
        same = alive is x or (alive is not None and _identity(alive) == _identity(x))
        return hist if same else None

    def remember(self, x: Tensor, hist: Histogram) -> None:
        """The histogram of x is this, for as long as the batch runs and x lives unchanged."""
        if _has_identity(x):
            self._counted[_identity(x)] = TensorWeakRef(x), hist

    def _is_finite(self, site: str, hist: Histogram) -> bool:
        low, high = self.limits.get(site, (-inf, inf))
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
        hist = self._collector.known(x) if isinstance(x, Tensor) else None
        result = func(*args, **kwargs)
        if limits is not None and hist is not None and not not_finite(hist):
            self._collector.remember(result, clamped(hist, *limits))
        return result


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
