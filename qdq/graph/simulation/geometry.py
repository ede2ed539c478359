"""Where the windows of convolutions and pools lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from qdq.graph.edges import Array


@dataclass(frozen=True, slots=True)
class Sliding:
    """A kernel on its way over some spatial axes; every tuple has one entry per axis.

    Attributes:
        kernel: lengths.
        strides: steps from one position to the next.
        dilations: steps within the kernel.
        pads: entries added (before, after) the axis.
        counts: positions.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]

    def windows(self, x: Array, fill: Any = 0) -> Array:
        """What each position sees, without copying it.

        Args:
            x: (N, *spatial, C).
            fill: what is padded with.

        Returns:
            (N, *counts, C, *kernel), a view.
        """
        padded = np.pad(x, [(0, 0), *self._reaching(x.shape[1:-1]), (0, 0)], constant_values=fill)
        axes = tuple(range(1, 1 + len(self.kernel)))
        view = sliding_window_view(padded, self._spans(), axis=axes)
        places = (
            slice(None, count * step, step)
            for count, step in zip(self.counts, self.strides, strict=True)
        )
        within = (slice(None, None, step) for step in self.dilations)
        return view[(slice(None), *places, slice(None), *within)]

    def _spans(self) -> list[int]:
        pairs = zip(self.kernel, self.dilations, strict=True)
        return [(length - 1) * apart + 1 for length, apart in pairs]

    def _reaching(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """The pads, and what `ceil_mode` lets the last window see behind them."""
        reaching = []
        for axis, (before, after) in enumerate(self.pads):
            end = (self.counts[axis] - 1) * self.strides[axis] + self._spans()[axis]
            reaching.append((before, max(after, end - before - sizes[axis])))
        return reaching


def sliding(
    attributes: Mapping[str, Any], sizes: Sequence[int], kernel: Sequence[int]
) -> Sliding | None:
    """By the attributes of ONNX Conv, MaxPool and AveragePool.

    None where SAME would cut an axis instead of padding it: there each kernel has its own way.

    Args:
        attributes: strides, dilations, pads, auto_pad, ceil_mode.
        sizes: of the spatial axes.
        kernel: lengths per spatial axis.
    """
    rank = len(kernel)
    strides = tuple(attributes.get("strides") or [1] * rank)
    dilations = tuple(attributes.get("dilations") or [1] * rank)
    spans = [(length - 1) * apart + 1 for length, apart in zip(kernel, dilations, strict=True)]
    pads = _pads(attributes, sizes, spans, strides)
    if min((each for pair in pads for each in pair), default=0) < 0:
        return None
    counts = []
    for size, span, step, (before, after) in zip(sizes, spans, strides, pads, strict=True):
        room = size + before + after - span
        count = (-(-room // step) if attributes.get("ceil_mode", 0) else room // step) + 1
        starts_outside = (count - 1) * step >= size + before
        counts.append(count - 1 if attributes.get("ceil_mode", 0) and starts_outside else count)
    return Sliding(tuple(kernel), strides, dilations, tuple(pads), tuple(counts))


def _pads(
    attributes: Mapping[str, Any],
    sizes: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
) -> list[tuple[int, int]]:
    rank = len(sizes)
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto == b"VALID":
        return [(0, 0)] * rank
    if auto == b"NOTSET":
        given = attributes.get("pads") or [0] * 2 * rank
        return list(zip(given[:rank], given[rank:], strict=True))
    pads = []
    for size, span, step in zip(sizes, spans, strides, strict=True):
        needed = (-(-size // step) - 1) * step + span - size
        needed = 0 if needed == -1 else needed  # no window sees the last entry
        less, more = needed // 2, needed - needed // 2
        pads.append((less, more) if auto == b"SAME_UPPER" else (more, less))
    return pads
