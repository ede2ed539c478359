"""Where counts come from: how much data, which share of it, and through which model."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from qdq.data import tensors_of
from qdq.insertion.switches import quantizers
from qdq.nn import TensorQuantizer
from qdq.version import version

_SHOWN = 4  # names in a message

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was counted: it travels with the histograms.

    Attributes:
        sites: every site of the model that calibration looks at.
        weights: parameter or buffer -> digest of its values, for all but quantizers' ranges.
        batches: how many were counted.
        samples: how many rows they held.
        share: (number of this share, how many shares) of all batches; None after a merge.
        last: digest of the last batch counted; "" where nobody said.
        dropped: sites left without a histogram, because what they see is not finite.
        version: of the qdq that counted.
    """

    sites: tuple[str, ...]
    weights: Mapping[str, str]
    batches: Count = 0
    samples: Count = 0
    share: tuple[Count, Count] | None = (0, 1)
    last: str = ""
    dropped: tuple[str, ...] = ()
    version: str = field(default_factory=version)


def origin_of(model: nn.Module, *, share: tuple[int, int] = (0, 1)) -> Origin:
    """Of counts on this model that have not begun.

    Args:
        model: after `insert`, with the weights that the data will go through.
        share: number of the share of the batches, and how many shares there are.

    Raises:
        StepError: the model has no quantizers.
    """
    sites = tuple(site for site, q in quantizers(model).items() if not q.dynamic)
    return Origin(sites=sites, weights=dict(_digests(model)), share=share)


def merged_origin(parts: Sequence[Origin]) -> Origin:
    """Of the counts of all parts together, which are of one model; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        batches=sum(part.batches for part in parts),
        samples=sum(part.samples for part in parts),
        share=None,
        last="",
        dropped=tuple(sorted({site for part in parts for site in part.dropped})),
        version=version(),
    )


def difference(first: Origin, second: Origin) -> str:
    """How the models differ, in words; "" where they are the same."""
    for what, names in (
        ("only the first has the sites", set(first.sites).difference(second.sites)),
        ("only the second has the sites", set(second.sites).difference(first.sites)),
        ("only the first has the weights", set(first.weights).difference(second.weights)),
        ("only the second has the weights", set(second.weights).difference(first.weights)),
        ("they differ in the weights", _unequal(first.weights, second.weights)),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            return f"{what} {', '.join(sorted(names)[:_SHOWN])}{more}"
    return ""


def digest_of(batch: object) -> str:
    """Of the tensors of a batch of any form, in order; equal batches give equal digests."""
    found = hashlib.sha256()
    for tensor in tensors_of(batch):
        _feed(found, tensor)
    return found.hexdigest()


def _unequal(first: Mapping[str, str], second: Mapping[str, str]) -> set[str]:
    return {name for name, digest in first.items() if second.get(name, digest) != digest}


def _digests(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Name and digest of everything that shapes what the float model computes."""
    for path, module in model.named_modules():
        if isinstance(module, TensorQuantizer):
            continue
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in own:
            found = hashlib.sha256()
            _feed(found, tensor)
            yield f"{path}.{name}".lstrip("."), found.hexdigest()


def _feed(found: "hashlib._Hash", tensor: Tensor) -> None:
    """Type, shape and bytes of a tensor, whatever its strides and device."""
    found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    found.update(flat.view(torch.uint8).numpy().data)
