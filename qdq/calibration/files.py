"""Histograms of a model's sites in one safetensors file, and several files as one."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from qdq.calibration.collecting import site_and_entry
from qdq.calibration.origins import Origin, difference, merged_origin
from qdq.errors import CalibrationError, InputError
from qdq.insertion.weights import read_tensors, write_tensors
from qdq.numerics.histogram import BINS, Histogram, bin_edges, merge
from qdq.records.base import plain, to_json_text

_KEY = "qdq.histograms"
_LARGEST = 4 << 30  # bytes of a file; ResNet-50 takes 16 million
_LARGEST_METADATA = 64 << 20  # characters
_MOST = 1 << 53  # values of a site: as a float64 their number is exact
_PARTS = ("bins", "counts", "ends")
_NOT_FINITE = 0x7F80_0000 >> 15  # first bin of infinity and NaN, of each sign

Histograms = dict[str, Histogram]


def save_histograms(
    histograms: Mapping[str, Histogram], path: str | os.PathLike[str], origin: Origin
) -> None:
    """Write them whole or not at all; equal histograms of equal origin give equal bytes.

    A site has three tensors: `<site>.bins` and `<site>.counts`, (K,) int64, and `<site>.ends`,
    (2,) float64, the smallest and the largest value.

    Args:
        histograms: by site, `conv1.input`; a site that is counted per channel has one for each,
            `conv1.input[3]`.
        path: a safetensors file, by custom *.hist.
        origin: what was counted.

    Raises:
        InputError: the file cannot be written.
        CalibrationError: a histogram that `load_histograms` would refuse.
    """
    for site, hist in histograms.items():
        flaw = _flaw(hist)
        if flaw:
            raise CalibrationError(
                f"this histogram cannot be saved: {flaw}",
                at=site,
                fix="count with qdq.calibrate, or make it with qdq.numerics.histogram",
            )
    tensors: dict[str, Tensor] = {}
    for site, hist in histograms.items():
        tensors |= {
            f"{site}.bins": torch.from_numpy(hist.bins),
            f"{site}.counts": torch.from_numpy(hist.counts),
            f"{site}.ends": torch.tensor([hist.amin, hist.amax], dtype=torch.float64),
        }
    write_tensors(path, tensors, {_KEY: to_json_text(plain(origin))})


def load_histograms(path: str | os.PathLike[str]) -> tuple[Histograms, Origin]:
    """What `save_histograms` wrote, checked: the file may come from a stranger.

    Raises:
        InputError: no such file, none of ours, or one that contradicts itself; names the site.
    """
    if Path(path).is_file() and Path(path).stat().st_size > _LARGEST:
        raise InputError("a file of more than 4 GiB", at=str(path), fix="is this the right file?")
    tensors, metadata = read_tensors(path)
    origin = _read_origin(metadata, path)
    histograms: Histograms = {}
    for site in sorted({key.rpartition(".")[0] for key in tensors}):
        flaw = _known(site, origin) or _wrong_form(tensors, site)
        if not flaw:
            bins, counts, ends = (tensors.pop(f"{site}.{part}").numpy() for part in _PARTS)
            histograms[site] = Histogram(bins, counts, float(ends[0]), float(ends[1]))
            flaw = _flaw(histograms[site])
        if flaw:
            raise _refused(f"the histogram of {site!r} is broken: {flaw}", path)
    if tensors:
        raise _refused(f"there is a tensor {min(tensors)!r} that belongs to no histogram", path)
    return histograms, origin


def load_merged(paths: Sequence[str | os.PathLike[str]]) -> tuple[Histograms, Origin]:
    """The histograms of several files as if one pass had counted all their batches.

    Args:
        paths: at least one file, each of its own batches, all of one model.

    Raises:
        InputError: as `load_histograms`; no file; or files of different models.
    """
    if not paths:
        raise InputError("there are no files to merge", fix="name at least one")
    return merged((str(path), *load_histograms(path)) for path in paths)


def merged(parts: Iterable[tuple[str, Histograms, Origin]]) -> tuple[Histograms, Origin]:
    """The histograms of all parts, whatever their order, one part in memory at a time.

    Args:
        parts: (what it is called in messages, its histograms, their origin), at least one.

    Raises:
        InputError: parts of different models, or more values than can be counted.
    """
    whole: Histograms = {}
    origins: list[Origin] = []
    for name, histograms, origin in parts:
        unlike = difference(origins[0], origin) if origins else ""
        if unlike:
            raise InputError(
                f"these histograms are of another model than the first: {unlike}",
                at=name,
                fix="merge what one model counted: same factory, weights, ignore= and only=",
            )
        origins.append(origin)
        for site, hist in histograms.items():
            whole[site] = merge(whole[site], hist) if site in whole else hist
            if _total(whole[site]) > _MOST:
                raise InputError(
                    f"more values than can be counted at {site!r}",
                    at=name,
                    fix="was a file merged into itself again and again?",
                )
    origin = merged_origin(origins)
    return {site: whole[site] for site in sorted(whole) if site not in origin.dropped}, origin


def _read_origin(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> Origin:
    text = metadata.get(_KEY, "")
    try:
        if not 0 < len(text) <= _LARGEST_METADATA:
            raise ValueError("it does not say what was counted")
        return TypeAdapter(Origin).validate_json(text)
    except (ValidationError, ValueError) as error:
        raise InputError(
            "this file holds no histograms of qdq",
            at=str(path),
            fix="pass what qdq.calibrate or `qdq calibrate --histograms FILE` saved",
        ) from error


def _refused(what: str, path: str | os.PathLike[str]) -> InputError:
    return InputError(what, at=str(path), fix="the file was damaged or made by hand: count again")


def _known(site: str, origin: Origin) -> str:
    """Why the model that was counted cannot have this site, or a channel of it; "" if it can."""
    name, _ = site_and_entry(site)
    return "" if name in origin.sites else "the model that was counted has no such site"


def _wrong_form(tensors: Mapping[str, Tensor], site: str) -> str:
    """What is wrong with types and shapes; "" where nothing is."""
    found = [tensors.get(f"{site}.{part}") for part in _PARTS]
    types = (torch.int64, torch.int64, torch.float64)
    for part, tensor, dtype in zip(_PARTS, found, types, strict=True):
        if tensor is None:
            return f"its {part} are missing"
        if tensor.dtype != dtype or tensor.dim() != 1:
            return f"its {part} are {tensor.dtype} of shape {tuple(tensor.shape)}"
    sizes = [len(tensor) for tensor in found if tensor is not None]
    if sizes[0] != sizes[1] or sizes[2] != 2:
        return "it has {} bins, {} counts and {} ends".format(*sizes)
    return ""


def _flaw(hist: Histogram) -> str:
    """What no values could have given; "" where nothing is wrong."""
    bins, counts = hist.bins, hist.counts
    if not 0 < len(bins) <= BINS:
        return f"it has {len(bins)} bins"
    if bins[0] < 0 or bins[-1] >= BINS or (np.diff(bins) <= 0).any():
        return f"its bins do not ascend from 0 to {BINS - 1}"
    if (bins % (BINS // 2) >= _NOT_FINITE).any():
        return "it has a bin of infinity or NaN"
    if (counts <= 0).any() or _total(hist) > _MOST:
        return "its counts are not whole numbers from 1 that add up to 2^53 at most"
    if not _ends_fit(hist):
        return f"its ends {hist.amin:.6g} and {hist.amax:.6g} do not lie in its outer bins"
    return ""


def _total(hist: Histogram) -> float:
    return float(hist.counts.sum(dtype=np.float64))


def _ends_fit(hist: Histogram) -> bool:
    """Whether the smallest value lies in the lowest bin and the largest in the highest."""
    low, high = bin_edges(hist.bins)
    lowest, highest = np.lexsort((high, low))[[0, -1]]
    inside = low[lowest] <= hist.amin <= high[lowest] and low[highest] <= hist.amax <= high[highest]
    return bool(inside and hist.amin <= hist.amax)
