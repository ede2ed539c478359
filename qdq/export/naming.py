"""What the tensors of an exported file are called, and which of their axes may vary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from qdq.data import tensors_of
from qdq.errors import ExportError
from qdq.registry import choose_one_of

BATCH = "batch"
_AXES = 'pass {"input": {2: "height"}}: axes from 0, and a name for each size'


@dataclass(frozen=True)
class Naming:
    """Names of the inputs and outputs of a file.

    Attributes:
        inputs: one per tensor.
        outputs: one per tensor.
        axes: of the tensors with axes that may vary, the names of their sizes by axis.
    """

    inputs: list[str]
    outputs: list[str]
    axes: dict[str, dict[int, str]]


def name_tensors(
    example_inputs: object,
    results: object,
    *,
    dynamic_batch: bool,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> Naming:
    """Names for what a model is given and gives.

    The batch is the first axis of the first input that has axes. Another tensor has it too if its
    first axis is as long; a mask of shape (1, T) beside four images has none. So let the example
    hold a batch as long as no other tensor's first axis.

    Args:
        example_inputs: a tensor, tuple or dict.
        results: what the model gives for them.
        dynamic_batch: the batch may vary.
        dynamic_shapes: by tensor name, further axes that may vary and what their sizes are called.
        input_names: one per input tensor; None: the keywords, or input, input_1, ...
        output_names: one per output tensor; None: output, output_1, ...

    Raises:
        ExportError: not one name per tensor, an input and an output of one name, or a varying axis
            of none of them.
    """
    given, made = tensors_of(example_inputs), tensors_of(results)
    ins = input_names or _keywords(example_inputs) or _numbered("input", len(given))
    outs = output_names or _numbered("output", len(made))
    _require_names(ins, "input", len(given))
    _require_names(outs, "output", len(made))
    if both := sorted(set(ins).intersection(outs)):
        raise ExportError(
            f"an input and an output are called {both[0]!r}",
            fix="pass output_names= that no input has",
        )
    ins, outs = list(ins), list(outs)
    called = dict(zip((*ins, *outs), (*given, *made), strict=True))
    batch = next((each.shape[0] for each in given if each.dim()), None)
    varying = [name for name, each in called.items() if each.dim() and each.shape[0] == batch]
    axes = {name: {0: BATCH} for name in varying} if dynamic_batch else {}
    if not isinstance(dynamic_shapes or {}, Mapping):
        raise ExportError(f"dynamic_shapes={dynamic_shapes!r} is no dict", fix=_AXES)
    for name, sizes in (dynamic_shapes or {}).items():
        _require_axes(name, sizes, called)
        axes[name] = {**axes.get(name, {}), **sizes}
    return Naming(ins, outs, axes)


def _require_names(names: Sequence[str], what: str, wanted: int) -> None:
    """Raise ExportError unless these are so many different names."""
    texts = not isinstance(names, str) and all(isinstance(each, str) and each for each in names)
    if not texts or len(names) != wanted or len(set(names)) != wanted:
        raise ExportError(
            f"{what}_names={names!r} does not name {wanted} {what}s",
            fix=f"pass {wanted} different names",
        )


def _require_axes(name: str, sizes: Mapping[int, str], called: Mapping[str, Tensor]) -> None:
    """Raise ExportError unless this tensor has these axes, and their sizes have names."""
    if name not in called:
        raise ExportError(
            f"dynamic_shapes names {name!r}, which is no input or output",
            fix=choose_one_of(name, list(called)),
        )
    if not isinstance(sizes, Mapping):
        raise ExportError(f"dynamic_shapes={{{name!r}: {sizes!r}}} names no sizes", fix=_AXES)
    rank = called[name].dim()
    for axis, size in sizes.items():
        if axis not in range(rank) or not isinstance(size, str) or not size.isidentifier():
            raise ExportError(
                f"dynamic_shapes={{{name!r}: {{{axis}: {size!r}}}}} is no axis of {rank} with a "
                "name",
                fix=_AXES,
            )


def _keywords(example_inputs: object) -> list[str]:
    if not isinstance(example_inputs, Mapping):
        return []
    return [
        name
        for key, value in example_inputs.items()
        for name in _numbered(key, len(tensors_of(value)))
    ]


def _numbered(stem: str, count: int) -> list[str]:
    return [stem if index == 0 else f"{stem}_{index}" for index in range(count)]
