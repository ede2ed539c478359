"""Migration: the outliers of normalized activations go into the weights that read them."""

from collections.abc import Iterable

import torch
from torch import nn

from qdq.insertion.fusing import require_eval
from qdq.insertion.undo import atomic
from qdq.records.calibration import RepairRow
from qdq.repair.balancing import balance
from qdq.repair.layers import Reading, Step
from qdq.repair.repairs import REPAIRS
from qdq.repair.streams import norms_of, streams


@REPAIRS.add("migration")
@atomic
def migrate_outliers(
    model: nn.Module,
    data: Iterable[object],
    *,
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    progress: bool = True,
) -> tuple[RepairRow, ...]:
    """Divide what LayerNorms make, channel by channel, and multiply the weights that read it.

    SmoothQuant (Xiao et al. 2022, arXiv:2211.10438, sec. 4): a few channels are far larger than the
    rest in every token, and one scale for all leaves the others few codes. The factors go into the
    affine part of the LayerNorm, whose readers are all linear layers; see `balance`.

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
    require_eval(model, "migrate_outliers")
    norms = norms_of(model)
    found = [each for each in streams(model) if norms.keys() >= set(each.producers)]
    return balance(model, found, "migration", Reading(data, batches, device, step, progress))
