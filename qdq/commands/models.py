"""What several commands begin with: the model, its quantizers, and what to call it with."""

from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

from qdq.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from qdq.data import Inputs
    from qdq.records.decisions import InsertReport
    from qdq.targets import Target


@dataclass(frozen=True)
class Images:
    """How a source makes tensors of images; sources of other data leave it aside.

    Attributes:
        size: side of the square that images of a folder are cut to.
        mean: per channel, taken from values in 0..1.
        std: per channel, divides them.
    """

    size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def example_inputs(
    shapes: "Sequence[str]", data: str | None, images: Images | None = None
) -> "Inputs | None":
    """What to record a forward with; None where neither option says.

    Args:
        shapes: --shape, as often as it was given.
        data: --data, of which one row is taken.
        images: how to read it.

    Raises:
        InputError: both say it; or the shape or the data cannot be used.
    """
    from qdq.data import read
    from qdq.data.examples import zeros

    if shapes and data is not None:
        raise InputError("--shape and --data both say what to call the model with", fix="pass one")
    if data is not None:
        return next(read(open_data(data, 1, images))).inputs
    return zeros(shapes) if shapes else None


def open_data(
    data: str, batch_size: int, images: Images | None = None, *, split: str = "train"
) -> "Iterable[object]":
    """The batches of one split of --data.

    Args:
        data: a kind of data, `module:function(split, batch_size)`, a .npz or .npy with images, or
            a folder of images by class.
        batch_size: rows a batch.
        images: how to read images.
        split: "train" or "test".

    Raises:
        InputError: the data cannot be read.
        RegistryError: no kind of data of that name.
    """
    from qdq.data.examples import names_source
    from qdq.data.opening import open_source
    from qdq.data.sources import Request

    if names_source(data):
        source, path = data, ""
    else:
        source, path = "folder" if Path(data).is_dir() else "arrays", data
    asked = vars(images or Images())
    return open_source(source, Request(split=split, batch_size=batch_size, path=path, **asked))


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them, "0.485,0.456,0.406"; none in an empty text.

    Raises:
        InputError: another text.
    """
    try:
        found = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (nan,)
    if not all(isfinite(number) for number in found):
        raise InputError(
            f"{option} {text!r} is no list of numbers", fix="write numbers with commas: 0.5,0.5,0.5"
        )
    return found


def inserted_model(
    factory: str,
    weights: Path | None,
    example: "Inputs | None",
    *,
    target: "Target",
    ignore: "Sequence[str]",
    only: "Sequence[str]",
) -> "tuple[nn.Module, InsertReport]":
    """The float model with quantizers, and why they are where they are.

    Args:
        factory: MODEL, package.module:factory.
        weights: --weights; None: as the factory made them.
        example: of `example_inputs`.
        target: what the sites are placed for.
        ignore: --ignore, as often as it was given.
        only: --only, as often as it was given.

    Raises:
        InputError: the model cannot be built, or nothing can follow its forward.
        PolicyError: a pattern fits nothing, or they leave nothing to quantize.
        StepError: the model stays in training mode.
    """
    from qdq.insertion.following import trace
    from qdq.insertion.replacing import insert
    from qdq.loading import build
    from qdq.recipe import ModelPart

    given = None if weights is None else str(weights)
    net = build(ModelPart(factory=factory, weights=given), root="")
    if example is None and trace(net) is None:
        raise InputError(
            "torch.fx cannot follow this model's forward",
            at=type(net).__name__,
            fix="pass --shape 1,3,224,224 or --data, so that one forward can be recorded",
        )
    return net, insert(net, example, target=target, ignore=ignore, only=only)
