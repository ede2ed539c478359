"""What repairs share: how the model is run, which layers, and what meets their weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from qdq.data import call, device_of, length, numbered, take_apart, to_device
from qdq.insertion.switches import quantizers
from qdq.nn import QuantWeighted, callsites
from qdq.nn.quantizer import Observer
from qdq.progress import track

HISTOGRAMS = "_qdq_histograms"  # attribute of a model: what its last calibration counted
Step: TypeAlias = Callable[[nn.Module, object], object]


@dataclass(frozen=True)
class Reading:
    """How the float model is run on data; the arguments that all repairs have in common.

    Attributes:
        data: batches of inputs, with or without targets (see `qdq.data`).
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form.
        progress: show a bar on a terminal.
    """

    data: Iterable[object]
    batches: int | None = None
    device: torch.device | str | None = None
    step: Step | None = None
    progress: bool = True

    def steps(self, what: str) -> Iterator[tuple[int, object]]:
        """(number, batch) of all batches, behind a bar.

        Args:
            what: is being done, for the bar ("rounding").

        Raises:
            InputError: no batch.
        """
        return track(
            numbered(self.data, limit=self.batches),
            what,
            total=length(self.data, self.batches),
            shown=self.progress,
        )

    def forward(self, model: nn.Module, index: int, batch: object) -> Callable[[], object]:
        """What runs the model on a batch, with the inputs already where they have to be.

        Raises:
            InputError: a batch of another form; when run, also one that the model does not take.
        """
        if self.step is not None:
            return partial(self.step, model, batch)
        where = device_of(model) if self.device is None else self.device
        return partial(call, model, to_device(take_apart(batch, index).inputs, where))


def observe(
    model: nn.Module, observers: Mapping[str, Observer], reading: Reading, what: str
) -> None:
    """Run the model in float over the data, and show what arrives at sites to their observers.

    Args:
        model: after `insert`.
        observers: site -> called with (site, x).
        reading: the data, and how to run the model on it.
        what: is being done, for the bar ("rounding").

    Raises:
        InputError: as `forwards`.
    """
    with observed(model, observers):
        for forward in forwards(model, reading, what):
            forward()


def forwards(model: nn.Module, reading: Reading, what: str) -> Iterator[Callable[[], object]]:
    """For each batch a function that runs the model on it, without gradients, as it then is.

    Args:
        model: after `insert`.
        reading: the data, and how to run the model on it.
        what: is being done, for the bar ("rounding").

    Raises:
        InputError: no batch, a batch of another form, or one that the model does not take.
    """
    for index, batch in reading.steps(what):
        yield partial(_quietly, reading.forward(model, index, batch))


def _quietly(forward: Callable[[], object]) -> object:
    try:
        with torch.no_grad():
            return forward()
    except BaseException:
        callsites.reset()
        raise


@contextmanager
def observed(model: nn.Module, observers: Mapping[str, Observer]) -> Iterator[None]:
    """The model computes in float: every quantizer passes x on; those named show it.

    Args:
        model: after `insert`.
        observers: site -> called with (site, x).
    """
    found = quantizers(model)
    before = [(quantizer, quantizer.observer) for quantizer in found.values()]
    try:
        for site, quantizer in found.items():
            quantizer.observer = observers.get(site, _pass)
        yield
    finally:
        for quantizer, observer in before:
            quantizer.observer = observer


def _pass(_site: str, _x: Tensor) -> None:
    pass


def repairable(model: nn.Module) -> dict[str, QuantWeighted]:
    """Site of the input -> layer, of every layer whose products are quantized now.

    Left out are layers that share a weight or bias with another module, since what mends the one
    would break the other, those whose weight a hook computes anew (pruning, weight_norm), and
    products that are calls in a forward, `F.linear(x, self.table)`.

    Args:
        model: after `insert` and `calibrate`.
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    quantizers(model)  # it tells every quantizer its site
    return {
        module._input_quantizer.site: module
        for module in model.modules()
        if isinstance(module, QuantWeighted)
        and isinstance(module, (_ConvNd, nn.Linear))
        and module._input_quantizer.on
        and module._weight_quantizer.on
        and {"weight", "bias"} <= module._parameters.keys()  # neither is a hook's work
        and all(len(owners[id(each)]) == 1 for each in module.parameters(recurse=False))
    }


def patches(layer: QuantWeighted, x: Tensor) -> Tensor:
    """What meets the weights of one output: an im2col that copies nothing of a convolution's x.

    Args:
        layer: a convolution, a transposed one, or a linear layer.
        x: as the layer takes it.

    Returns:
        (N, *positions, C_in, *kernel), a view of x padded: the sum over the last axes of this
        times an output channel of `rows` is the layer's product there.
    """
    if not isinstance(layer, _ConvNd):
        return x.reshape(-1, 1, x.shape[-1])
    rank = len(layer.kernel_size)
    x = x.unsqueeze(0) if x.dim() == rank + 1 else x
    stride: Any = layer.stride
    if isinstance(layer, _ConvTransposeNd):
        x, stride = _spread(layer, x), (1,) * rank
    elif layer.padding_mode == "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice)
    else:
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    places = [
        (size - span - 1) // step + 1
        for size, span, step in zip(x.shape[2:], spans, stride, strict=True)
    ]
    steps = x.stride()[2:]
    strides = [
        x.stride(0),
        *(a * b for a, b in zip(steps, stride, strict=True)),
        x.stride(1),
        *(a * b for a, b in zip(steps, layer.dilation, strict=True)),
    ]
    return x.as_strided((len(x), *places, x.shape[1], *layer.kernel_size), strides)


def _spread(layer: _ConvTransposeNd, x: Tensor) -> Tensor:
    """The input of the plain convolution of stride 1 that a transposed one is.

    Dumoulin and Visin 2016, arXiv:1603.07285, sec. 4: zeros between the entries, and so many around
    that kernel and padding are made up for.
    """
    stride: Any = layer.stride
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    spread = x.new_zeros((*x.shape[:2], *sizes))
    every = [slice(None), slice(None), *(slice(None, None, step) for step in stride)]
    spread[tuple(every)] = x
    padding: Any = layer.padding
    geometry = (layer.dilation, layer.kernel_size, padding, layer.output_padding)
    ends: list[int] = []
    for d, k, p, more in reversed(list(zip(*geometry, strict=True))):
        ends += [d * (k - 1) - p, d * (k - 1) - p + more]
    return F.pad(spread, ends)


def rows(layer: QuantWeighted, weight: Tensor) -> Tensor:
    """A weight, or anything of its shape, as (groups, C_out / groups, columns).

    Columns are in the order of the last axes of `patches`, those of one group together.
    """
    groups: int = getattr(layer, "groups", 1)
    if isinstance(layer, _ConvTransposeNd):
        inner = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
        return inner.flip(_kernel_axes(inner)).reshape(groups, weight.shape[1], -1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def unrolled(layer: QuantWeighted, found: Tensor) -> Tensor:
    """The inverse of `rows`."""
    shape = layer.weight.shape
    if isinstance(layer, _ConvTransposeNd):
        inner = found.reshape(*found.shape[:2], shape[0] // layer.groups, *layer.kernel_size)
        return inner.flip(_kernel_axes(inner)).transpose(1, 2).reshape(shape)
    return found.reshape(shape)


def _kernel_axes(grouped: Tensor) -> tuple[int, ...]:
    return tuple(range(3, grouped.dim()))
