"""Which factors suit the activations and the weights of a stream, by the noise of its readers."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qdq.errors import CalibrationError
from qdq.insertion.switches import quantizers
from qdq.nn import QuantWeighted
from qdq.numerics.affine import fake_quantize, qparams, range_of
from qdq.numerics.histogram import from_values
from qdq.numerics.thresholds import METHODS
from qdq.records.calibration import RepairRow
from qdq.repair.bias_correction import take_back
from qdq.repair.layers import HISTOGRAMS, Reading, observe, patches, rows
from qdq.repair.repairs import decibels
from qdq.repair.streams import Stream, channels_read, layers_of, norms_of
from qdq.sites import owner

# Shares of the trouble that are moved from the activations into the weights.
SHARES = (0.25, 0.5, 0.75, 1.0)
NEEDED = 0.9  # of the noise that was, at most: what samples show to gain less may be chance
MOST_DOUBLINGS = 10  # of a channel; one that is nearly dead needs no more
PATCHES = 256  # of each reader, taken from one batch
MOST_PATCHES = 2048  # of each reader in all


@torch.no_grad()
def balance(
    model: nn.Module, found: Collection[Stream], method: str, reading: Reading
) -> tuple[RepairRow, ...]:
    """Scale streams so that their readers make the least noise, those that gain by it.

    s = A^a / W^(1-a) per channel, A the largest activation and W the largest weight that reads it
    (Xiao et al. 2022, arXiv:2211.10438, eq. 4), rounded to a power of two; a is the best of
    `SHARES`, by the squared error of the readers' outputs on sampled patches. Where that does not
    fall by a tenth, nothing is done.

    Args:
        model: after `insert`.
        found: its streams.
        method: what the rows say.
        reading: the data.
    """
    take_back(model)  # a shift would not be scaled with its bias
    layers = layers_of(model)
    makers: dict[str, nn.Module] = {**norms_of(model), **layers}
    samples = {name: _Sample(layers[name]) for stream in found for name in stream.consumers}
    observers = {f"{name}.input".lstrip("."): each.observe for name, each in samples.items()}
    observe(model, observers, reading, method)
    result: list[RepairRow] = []
    for stream in found:
        seen = [samples[name] for name in stream.consumers]
        factors = _factors(seen) if all(each.patches for each in seen) else torch.ones(())
        if bool((factors != 1).any()):
            result += [each.row(method, factors) for each in seen]
            _scale([makers[name] for name in stream.producers], seen, factors)
    if result:
        vars(model).pop(HISTOGRAMS, None)  # of the tensors as they were
        for quantizer in quantizers(model).values():
            quantizer.set_range(None, None)
    return tuple(result)


@dataclass
class _Sample:
    """What a layer that reads a stream has seen.

    Attributes:
        layer: as it is.
        largest: (C,) of |x| per channel, over all data.
        patches: (n, C, *kernel) each; what meets the weights of one output.
    """

    layer: QuantWeighted
    largest: Tensor = field(init=False)
    patches: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.largest = torch.zeros(channels_read(self.layer), device=self.layer.weight.device)
        self._generator = torch.Generator().manual_seed(0)

    def observe(self, site: str, x: Tensor) -> None:
        """Take note of one more input."""
        if not bool(torch.isfinite(x).all()):
            raise CalibrationError(
                "the inputs of this layer hold NaN or infinity",
                at=site,
                fix="the float model is broken on this data: look at the layers before this one",
            )
        if not x.numel():
            return
        kernel = getattr(self.layer, "kernel_size", ())
        x = x.float()
        channels = x.movedim(-1 - len(kernel), 0).reshape(len(self.largest), -1)
        self.largest = torch.maximum(self.largest, channels.abs().amax(1))
        if sum(map(len, self.patches)) < MOST_PATCHES:
            found = patches(self.layer, x)
            places = found.shape[: found.dim() - 1 - len(kernel)]
            chosen = torch.randint(places.numel(), (PATCHES,), generator=self._generator)
            taken = found[torch.unravel_index(chosen.to(x.device), places)]
            self.patches.append(taken.reshape(PATCHES, -1, *kernel))

    def weights(self) -> Tensor:
        """(C,) largest |weight| that reads each channel."""
        return self.scaled(torch.ones_like(self.largest)).abs().amax((1, 3)).reshape(-1).float()

    def scaled(self, factors: Tensor) -> Tensor:
        """The weight times (C,) factors, as (groups, C_out / groups, C / groups, kernel)."""
        weight, groups = self.layer.weight, getattr(self.layer, "groups", 1)
        inner = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        return inner * factors.view(groups, 1, -1, 1)

    def powers(self, factors: Tensor) -> tuple[float, float]:
        """(signal, noise): sums of squares of the outputs and of their error, scaled so."""
        layer, x = self.layer, torch.cat(self.patches)
        of_weight, of_input = layer._weight_quantizer.spec, layer._input_quantizer.spec
        weight = self.scaled(factors).float().reshape(layer.weight.shape)
        grid = qparams(*range_of(weight, of_weight.keep_axis), of_weight)
        x = x / factors.view(-1, *[1] * (x.dim() - 2))
        ends = METHODS["mse"](from_values(x.cpu().numpy()))
        low, high = torch.tensor(ends, device=x.device)
        x_fq = fake_quantize(x, qparams(low, high, of_input))
        wanted, got = self._product(x, weight), self._product(x_fq, fake_quantize(weight, grid))
        return float(wanted.square().sum()), float((got - wanted).square().sum())

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        grouped = rows(self.layer, weight)
        columns = x.reshape(len(x), len(grouped), -1).transpose(0, 1)
        return columns @ grouped.transpose(1, 2)

    def row(self, method: str, factors: Tensor) -> RepairRow:
        """What the factors do to the layer."""
        name = owner(self.layer._input_quantizer.site)
        before, after = self.powers(torch.ones_like(factors)), self.powers(factors)
        return RepairRow(name, method, decibels(*before), decibels(*after))


def _factors(readers: list[_Sample]) -> Tensor:
    """(C,) powers of two that leave the readers the least noise; ones if that is no less."""
    largest = torch.stack([each.largest for each in readers]).amax(0)
    weights = torch.stack([each.weights() for each in readers]).amax(0)
    alive = (largest > 0) & (weights > 0)
    best = torch.ones_like(largest)
    least = NEEDED * _noise(readers, best)
    for share in SHARES if bool(alive.any()) else ():
        wish = share * largest.log2() - (1 - share) * weights.log2()
        wish = (wish - wish[alive].mean()).round().clamp(-MOST_DOUBLINGS, MOST_DOUBLINGS)
        factors = torch.where(alive, wish, 0.0).exp2()
        noise = _noise(readers, factors)
        if noise < least:
            best, least = factors, noise
    return best


def _noise(readers: list[_Sample], factors: Tensor) -> float:
    """Of all readers together, each one's relative to its signal."""
    powers = [each.powers(factors) for each in readers]
    return sum(noise / signal for signal, noise in powers if signal > 0.0)


def _scale(makers: list[nn.Module], readers: list[_Sample], factors: Tensor) -> None:
    """Divide what is made by the factors, and multiply the weights that read it."""
    for reader in readers:
        weight = reader.layer.weight
        weight.data = reader.scaled(factors).reshape(weight.shape).to(weight.dtype)
    for maker in makers:
        for parameter in maker.parameters(recurse=False):  # its weight and bias
            shape = (-1, *[1] * (parameter.dim() - 1))
            parameter.data = (parameter / factors.view(shape)).to(parameter.dtype)
