"""Counting, on the device, what the sites of a model see in one float pass."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qdq.errors import CalibrationError
from qdq.numerics.histogram import BINS, SHIFT, Histogram, from_counts


@dataclass
class Collector:
    """An observer for every quantizer of one model.

    Attributes:
        required: sites that must be finite; another that is not, the mask of an attention, is
            left without a histogram.
        batch: number of the batch that is running, for messages.
        counts: per site (BINS,) int64.
        ends: per site (2,) float32: smallest and largest value.
    """

    required: Collection[str] = ()
    batch: int = 0
    counts: dict[str, Tensor] = field(default_factory=dict)
    ends: dict[str, Tensor] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)

    def observe(self, site: str, x: Tensor) -> None:
        """Add the values of x to the site's histogram.

        Raises:
            CalibrationError: x holds NaN or infinity, and the site is required.
        """
        if site in self._dropped:
            return
        values = x.detach().float().reshape(-1)
        if not values.numel():
            return
        ends = torch.stack(torch.aminmax(values))
        if not bool(torch.isfinite(ends).all()):
            if site not in self.required:
                self._dropped.add(site)
                self.counts.pop(site, None)
                return
            raise CalibrationError(
                f"batch {self.batch} makes NaN or infinity here",
                at=site,
                fix="the float model is broken on this batch: look at the layers before this site",
            )
        # The sign bit makes int32 negative: the shift leaves -BINS/2..BINS/2-1, the mask 0..BINS-1.
        bins = values.view(torch.int32).bitwise_right_shift(SHIFT).bitwise_and_(BINS - 1)
        counts = torch.bincount(bins, minlength=BINS)
        if site not in self.counts:
            self.counts[site], self.ends[site] = counts, ends
            return
        self.counts[site] += counts
        held = self.ends[site]
        self.ends[site] = torch.stack(
            [torch.minimum(held[0], ends[0]), torch.maximum(held[1], ends[1])]
        )

    def histograms(self) -> dict[str, Histogram]:
        """Site -> histogram, of every site that saw a value."""
        return {
            site: from_counts(counts.cpu().numpy(), *(float(end) for end in self.ends[site]))
            for site, counts in self.counts.items()
        }
