"""The amax of every quantized weight, without data."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from qdq.compat.pytorch_quantization.calib.histogram import HistogramCalibrator
from qdq.compat.pytorch_quantization.descriptor import NumBits
from qdq.compat.pytorch_quantization.utils.quant_logging import logger
from qdq.compat.pytorch_quantization.utils.reduce_amax import reduce_amax

HISTOGRAM_METHODS = ("mse", "percentile", "entropy")


class WeightQuantizer(Protocol):
    """What a quantizer must have to be calibrated here."""

    amax: Any
    num_bits: NumBits
    unsigned: bool

    def set_range(self, amin: None, amax: None) -> None:
        """Forget the range."""


Found: TypeAlias = Iterator[tuple[Tensor, WeightQuantizer]]


@torch.no_grad()
def calibrate_weights(
    model: nn.Module,
    method: str = "percentile",
    perchannel: bool = True,
    percentile: float = 99.99,
    num_bins: int = 2048,
) -> None:
    """Give every weight quantizer in the model the amax of its weight.

    A range that it had before, of whatever shape, is forgotten.

    Args:
        model: its modules with a `weight_quantizer` are calibrated, and its LSTMs.
        method: "max", "mse", "percentile" or "entropy".
        perchannel: one amax per output channel, shaped to broadcast against the weight; otherwise
            one for all of it, ().
        percentile: 0..100, for that method.
        num_bins: of the histograms that all methods but "max" read, one per amax.

    Raises:
        TypeError: an unknown method.
        ValueError: `percentile` is outside 0..100.
    """
    if method != "max" and method not in HISTOGRAM_METHODS:
        known = ", ".join(("max", *HISTOGRAM_METHODS))
        raise TypeError(f"Unknown calibration method {method!r}: choose one of {known}")

    def amax_of(part: Tensor, quantizer: WeightQuantizer) -> Tensor:
        if method == "max":
            return reduce_amax(part)
        calibrator = HistogramCalibrator(
            quantizer.num_bits, None, quantizer.unsigned, num_bins=num_bins
        )
        calibrator.collect(part)
        amax = calibrator.compute_amax(method, percentile=percentile)
        assert amax is not None  # it was given data
        return amax

    for name, module in model.named_modules():
        axis = 1 if isinstance(module, _ConvTransposeNd) else 0
        for weight, quantizer in _quantized_weights(module):
            if perchannel:
                found = [amax_of(channel, quantizer) for channel in weight.unbind(axis)]
                shape = [1] * weight.dim()
                shape[axis] = -1
                amax = torch.stack(found).reshape(shape)
            else:
                amax = amax_of(weight, quantizer)
            quantizer.set_range(None, None)
            quantizer.amax = amax
            logger.info("%s: amax of the weight by %s, shape %s", name, method, tuple(amax.shape))


def _quantized_weights(module: nn.Module) -> Found:
    """Each weight that is quantized as a whole, and what quantizes it.

    A recurrent layer quantizes its input and hidden weights side by side, once per layer and
    direction, a cell likewise.
    """
    if isinstance(module, nn.RNNBase):
        quantizers = getattr(module, "_weight_quantizers", ())
        for weights, quantizer in zip(module.all_weights, quantizers, strict=False):
            yield torch.cat(list(weights[:2]), dim=1), quantizer
        return
    quantizer = getattr(module, "weight_quantizer", None)
    if quantizer is None:
        return
    if isinstance(module, nn.RNNCellBase):
        yield torch.cat([module.weight_ih, module.weight_hh], dim=1), quantizer
    else:
        yield module.weight, quantizer  # type: ignore[misc]  # whatever has the one has the other
