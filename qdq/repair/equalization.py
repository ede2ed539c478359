"""Cross-layer equalization: channels scaled where they are made, and back where they are read."""

from collections.abc import Iterable

import torch
from torch import nn

from qdq.insertion.fusing import require_eval
from qdq.insertion.undo import atomic
from qdq.records.calibration import RepairRow
from qdq.repair.balancing import balance
from qdq.repair.layers import Reading, Step
from qdq.repair.repairs import REPAIRS
from qdq.repair.streams import layers_of, streams


@REPAIRS.add("equalization")
@atomic
def equalize_channels(
    model: nn.Module,
    data: Iterable[object],
    *,
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    progress: bool = True,
) -> tuple[RepairRow, ...]:
    """Scale channels between layers so that one range suits them all; the model computes the same.

    Nagel et al. 2019, arXiv:1906.04721, sec. 4.1: f(x / s) = f(x) / s for a ReLU, so the layers
    before a tensor may divide its channels by s > 0 while those behind it multiply. Here the layers
    are all that make and read a residual stream, and s weighs the activations, which have one scale
    in all, against the weights (see `balance`), whose rows keep a scale each anyway. Factors are
    powers of two: apart from underflow every result is the same to the last bit.

    Args:
        model: after `insert` with a recorded forward, in eval mode. If anything was scaled, all
            ranges are forgotten: calibrate afterwards, and round afterwards too, for a column
            that is scaled leaves the grid that its weights were rounded to.
        data: batches of inputs, with or without targets (see `qdq.data`).
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form.
        progress: show a bar on a terminal.

    Returns:
        A row per layer that reads a scaled tensor: the noise is all of the layer's own, of input
        and weight, on sampled patches.

    Raises:
        StepError: training mode, nothing inserted, or no recorded forward.
        InputError: no batch, a batch of another form, or one that the model does not take.
    """
    require_eval(model, "equalize_channels")
    layers = layers_of(model)
    found = [each for each in streams(model) if layers.keys() >= set(each.producers)]
    return balance(model, found, "equalization", Reading(data, batches, device, step, progress))
