"""Bias correction: what quantization does to the mean of a channel goes into its bias."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from qdq.errors import CalibrationError
from qdq.insertion.fusing import require_eval
from qdq.insertion.undo import atomic
from qdq.nn import QuantWeighted
from qdq.records.calibration import RepairRow
from qdq.repair.layers import Reading, Step, forwards, observed, repairable
from qdq.repair.repairs import REPAIRS, decibels
from qdq.sites import owner

_SHIFTS = "_qdq_bias_shifts"


@REPAIRS.add("bias")
@atomic
def correct_biases(
    model: nn.Module,
    data: Iterable[object],
    *,
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    progress: bool = True,
) -> tuple[RepairRow, ...]:
    """Add to each bias how far quantization moves the mean of its channel, images and positions.

    Nagel et al. 2019, arXiv:1906.04721, sec. 4.2 and app. D: a layer may be corrected only after
    all before it, or it mends their error once more. Here one quantized pass does for all layers:
    in it each layer's output is shifted at once to the means that the float model has for this
    batch, so that what comes after sees no error of the mean, and the bias takes the mean of these
    shifts over the batches.

    Half the price of `round_weights`, which brings more. Of both, rounding comes first: it changes
    the error of the weights, and leaves little of its mean, so that a correction after it brings
    or costs 0.2 dB. A second call takes the place of the first.

    Args:
        model: after `insert` and `calibrate`, in eval mode. A layer without a bias gets none, so
            that the model keeps its float keys; `fuse` gives one to whatever a BatchNorm follows.
        data: batches of inputs, with or without targets (see `qdq.data`); each is run twice.
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form.
        progress: show a bar on a terminal.

    Returns:
        A row per layer that the data reached: the noise is the error of a batch's channel means.

    Raises:
        StepError: training mode, or no quantizers.
        CalibrationError: a site has no range, or NaN inside the model.
        InputError: no batch, a batch of another form, or one that the model does not take.
    """
    require_eval(model, "correct_biases")
    layers = {site: each for site, each in repairable(model).items() if each.bias is not None}
    take_back(model)
    means = {site: _Means(layer) for site, layer in layers.items()}
    for forward in forwards(model, Reading(data, batches, device, step, progress), "biases"):
        for each in means.values():
            each.wanted.clear()
        with observed(model, {}), _shown(means.values(), _Means.note):
            forward()
        with _shown(means.values(), _Means.mend):
            forward()
    seen = {site: each for site, each in means.items() if each.count}
    shifts = {site: each.shift() for site, each in seen.items()}
    for site, shift in shifts.items():
        _add_to_bias(layers[site], shift)
    setattr(model, _SHIFTS, shifts)
    return tuple(each.row() for each in seen.values())


class _Means:
    """Of one layer: how far the channel means of its output are off, in the output's unit.

    Attributes:
        layer: as it is.
        wanted: (C,) each: means of the float output, of the calls in one forward.
        sum: (C,): over images and positions, of the shifts.
        noise: of their squares.
        signal: of the squares of the means.
        count: how many values a channel has had.
    """

    def __init__(self, layer: QuantWeighted) -> None:
        assert layer.bias is not None
        self.layer = layer
        self.wanted: list[Tensor] = []
        self.sum = torch.zeros_like(layer.bias, dtype=torch.float32)
        self.noise = self.signal = 0.0
        self.count = 0

    def note(self, y: Tensor) -> Tensor:
        """Remember the means of a float output."""
        self.wanted.append(self._mean(y))
        return y

    def mend(self, y: Tensor) -> Tensor:
        """A quantized output, shifted to the means of the float one."""
        if not self.wanted:  # a call that the float forward did not make
            return y
        wanted = self.wanted.pop(0)
        shift = wanted - self._mean(y)
        count = y.numel() // len(shift)
        self.sum += count * shift
        self.noise += count * float(shift.square().sum())
        self.signal += count * float(wanted.square().sum())
        self.count += count
        return y + shift.to(y.dtype).view(-1, *(1,) * self._rank)

    def shift(self) -> Tensor:
        """(C,): what the bias lacks."""
        shift = self.sum / self.count
        if not bool(torch.isfinite(shift).all()):
            raise CalibrationError(
                "this layer's output holds NaN or infinity",
                at=self._name,
                fix="the model is broken on this data: look at the layers before this one",
            )
        return shift

    def row(self) -> RepairRow:
        """Without the mean shift, its square is missing in the noise."""
        left = self.noise - float(self.sum.square().sum()) / self.count
        before_db, after_db = (decibels(self.signal, each) for each in (self.noise, left))
        return RepairRow(self._name, "bias", before_db, after_db)

    @property
    def _name(self) -> str:
        return owner(self.layer._input_quantizer.site)

    @property
    def _rank(self) -> int:
        """How many axes follow that of the channels."""
        return len(self.layer.kernel_size) if isinstance(self.layer, _ConvNd) else 0

    def _mean(self, y: Tensor) -> Tensor:
        axis = y.dim() - 1 - self._rank
        return y.float().movedim(axis, 0).reshape(y.shape[axis], -1).mean(1)


@contextmanager
def _shown(means: Iterable[_Means], look: Callable[[_Means, Tensor], Tensor]) -> Iterator[None]:
    """Each layer's product with its bias goes through `look` before its quantizer sees it."""
    with ExitStack() as hooks:
        for each in means:

            def show(_module: nn.Module, args: tuple[Tensor], each: _Means = each) -> Tensor:
                return look(each, *args)

            handle = each.layer._output_quantizer.register_forward_pre_hook(show)
            hooks.callback(handle.remove)
        yield


def take_back(model: nn.Module) -> None:
    """Undo the shifts of the last `correct_biases`, wherever the layer is still there."""
    layers = {site: each for site, each in repairable(model).items() if each.bias is not None}
    before: dict[str, Tensor] = vars(model).pop(_SHIFTS, {})
    for site, shift in before.items():
        if site in layers:
            _add_to_bias(layers[site], -shift)


def _add_to_bias(layer: QuantWeighted, shift: Tensor) -> None:
    assert layer.bias is not None
    layer.bias.data = layer.bias.data + shift.to(layer.bias)
