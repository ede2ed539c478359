"""Calibration in several processes: each counts a share of the batches, all end with the whole.

It runs in the default process group of torch.distributed (gloo or nccl), which the user's program
initializes and `torchrun` starts. Nothing is pickled: JSON and integers travel.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pydantic import TypeAdapter

from qdq.calibration.files import Histograms, merged
from qdq.calibration.origins import Origin
from qdq.errors import CalibrationError
from qdq.numerics.histogram import Histogram
from qdq.records.base import plain

_FAILED = -1  # instead of a length: this process has nothing to give


def rank_and_ranks() -> tuple[int, int]:
    """The number of this process and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_share(
    batches: Iterator[tuple[int, object]], share: tuple[int, int]
) -> Iterator[tuple[int, object]]:
    """Of all batches those of one share: numbers r, r + n, r + 2n, ...

    The boundaries of batches stay what they are in one process, and so does every float that the
    model computes, with as many threads. Every process reads all the data.

    Args:
        batches: (number, batch), the same in every process.
        share: (r, n), number of the share and how many there are.
    """
    own, shares = share
    return ((index, batch) for index, batch in batches if index % shares == own)


def merged_over_ranks(histograms: Histograms, origin: Origin) -> tuple[Histograms, Origin]:
    """What all processes counted together, the same in each of them, bit for bit.

    Every process calls it once, also one that counted nothing. One other process's counts are in
    memory at a time.

    Args:
        histograms: by site, of this process.
        origin: what this process counted.

    Raises:
        InputError: the processes counted with different models.
        CalibrationError: another process failed: see `failing_together`.
    """
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return histograms, origin
    header, body = _packed(histograms, origin)
    lengths = _gathered_lengths(len(header), len(body))
    failed = [str(rank) for rank, (length, _) in enumerate(lengths) if length == _FAILED]
    if failed:
        raise CalibrationError(
            f"calibration failed in process {', '.join(failed)} of {ranks}",
            fix="see what that process says",
        )
    return merged(_received(header, body, lengths))


@contextmanager
def failing_together() -> Iterator[None]:
    """An error inside reaches the other processes where they wait in `merged_over_ranks`.

    Without it they would wait until the process group's timeout.
    """
    try:
        yield
    except BaseException:
        if rank_and_ranks()[1] > 1:
            _gathered_lengths(_FAILED, _FAILED)
        raise


def _received(
    header: NDArray[np.uint8], body: NDArray[np.int64], lengths: list[list[int]]
) -> Iterator[tuple[str, Histograms, Origin]]:
    """The counts of each process in turn, sent by it to all others."""
    rank, device = rank_and_ranks()[0], _device()
    for source, (header_length, body_length) in enumerate(lengths):
        if source == rank:
            text, numbers = torch.from_numpy(header), torch.from_numpy(body)
        else:
            text = torch.empty(header_length, dtype=torch.uint8)
            numbers = torch.empty(body_length, dtype=torch.int64)
        text, numbers = text.to(device), numbers.to(device)
        dist.broadcast(text, source)
        dist.broadcast(numbers, source)
        yield f"process {source}", *_unpacked(text.cpu().numpy(), numbers.cpu().numpy())


def _gathered_lengths(*own: int) -> list[list[int]]:
    sent = torch.tensor(own, dtype=torch.int64, device=_device())
    received = [torch.empty_like(sent) for _ in range(rank_and_ranks()[1])]
    dist.all_gather(received, sent)
    return [lengths.tolist() for lengths in received]


def _device() -> torch.device:
    """Where tensors must be to be sent: nccl takes those of this process's GPU alone."""
    if dist.get_backend() == dist.Backend.NCCL:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _packed(histograms: Histograms, origin: Origin) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Names as JSON, and the numbers of all sites in one row: bins, counts and the two ends."""
    sizes = {site: len(hist.bins) for site, hist in histograms.items()}
    text = json.dumps({"origin": plain(origin), "sizes": sizes})
    ends = ((hist.bins, hist.counts, _bits(hist)) for hist in histograms.values())
    numbers = [np.empty(0, np.int64), *(each for parts in ends for each in parts)]
    return np.frombuffer(text.encode(), np.uint8).copy(), np.concatenate(numbers)


def _bits(hist: Histogram) -> NDArray[np.int64]:
    return np.array([hist.amin, hist.amax], np.float64).view(np.int64)


def _unpacked(text: NDArray[np.uint8], numbers: NDArray[np.int64]) -> tuple[Histograms, Origin]:
    header = json.loads(text.tobytes())
    histograms: Histograms = {}
    start = 0
    for site, size in header["sizes"].items():
        bins, counts, bits = np.split(numbers[start : start + 2 * size + 2], [size, 2 * size])
        ends = bits.view(np.float64)
        histograms[site] = Histogram(bins, counts, float(ends[0]), float(ends[1]))
        start += 2 * size + 2
    return histograms, TypeAdapter(Origin).validate_python(header["origin"])
