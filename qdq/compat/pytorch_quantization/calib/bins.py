"""Counts of |x| in equal bins from 0 that grow with the data. Pure functions.

A bin holds its lower edge, and the last one its upper edge too. Edges are float32, counts int64.
"""

import math
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

Bins: TypeAlias = tuple[Tensor, Tensor]  # (M,) counts, (M + 1,) edges

# Sixteen times the usual number. Where the first tensor was so much smaller than a later one,
# its width says nothing of the whole, and searching still more bins takes minutes.
MOST_BINS = 1 << 15
SMALLEST_WIDTH = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float32).max


def first_bins(x: Tensor, peak: float, number: int) -> Bins:
    """Bins from 0 to the largest of the first values.

    Args:
        x: (N,) float32 >= 0, not empty.
        peak: the largest of them.
        number: of bins.

    Returns:
        counts and edges; where all values are zero, so are all edges.
    """
    top = peak if peak >= number * SMALLEST_WIDTH else 0.0
    return tally(x, number, top), edges_of(number, top, x.device)


def more(bins: Bins, x: Tensor, peak: float, number: int) -> Bins:
    """The bins with the values of x, too.

    A larger peak appends bins of the same width. Where that would make more than MOST_BINS, bins
    are merged in groups of a power of two until at most twice `number` remain.

    Args:
        bins: so far.
        x: (N,) float32 >= 0, not empty.
        peak: the largest of them.
        number: of bins that were asked for.
    """
    counts, edges = (part.to(x.device) for part in bins)
    top = float(edges[-1])
    if top == 0.0:  # only zeros so far: nothing is known about the width yet
        fresh, edges = first_bins(x, peak, number)
        fresh[0] += counts.sum()
        return fresh, edges
    if peak > top:
        counts, top = _grown(counts, top, peak, number)
        edges = edges_of(len(counts), top, x.device)
    return counts + tally(x, len(counts), top), edges


def _grown(counts: Tensor, top: float, peak: float, number: int) -> tuple[Tensor, float]:
    """(counts in bins that reach `peak`, the edge where the last one ends)."""
    width, group = top / len(counts), 1
    if math.ceil(peak / width) > max(MOST_BINS, number):
        while math.ceil(peak / (group * width)) > 2 * number:
            group *= 2
        width *= group
        group = min(group, 1 << len(counts).bit_length())  # all in one, however much larger
        counts = pad(counts, (0, -len(counts) % group)).view(-1, group).sum(1)
    total = math.ceil(peak / width)
    grown = pad(counts, (0, total - len(counts)))
    return grown, float(np.float32(min(total * width, LARGEST)))


def edges_of(number: int, top: float, device: torch.device) -> Tensor:
    """(number + 1,) float32 edges, equally far apart from 0 to `top`."""
    edges = np.linspace(0.0, top, number + 1).astype(np.float32)
    return torch.from_numpy(edges).to(device)


def tally(x: Tensor, number: int, top: float) -> Tensor:
    """How many values each bin holds.

    Args:
        x: (N,) float32 within [0, top].
        number: of bins.
        top: upper edge of the last one; 0: all values count for the first.

    Returns:
        (number,) int64.
    """
    if top == 0.0:
        counts = torch.zeros(number, dtype=torch.int64, device=x.device)
        counts[0] = x.numel()
        return counts
    if x.device.type == "cpu":  # bucketize takes seven times as long there
        return torch.from_numpy(np.histogram(x.numpy(), number, (0.0, top))[0])
    return sorted_in(x, edges_of(number, top, x.device))


def sorted_in(x: Tensor, edges: Tensor) -> Tensor:
    """The counts of `tally`, on any device.

    Args:
        x: (N,) values between the first edge and the last.
        edges: (M + 1,) ascending.

    Returns:
        (M,) int64.
    """
    number = len(edges) - 1
    index = torch.bucketize(x, edges, right=True).sub_(1).clamp_(max=number - 1)
    return torch.bincount(index, minlength=number)
