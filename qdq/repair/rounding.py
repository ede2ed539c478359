"""GPTQ-like rounding: each weight's rounding error is made good by the weights not rounded yet."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from qdq.errors import CalibrationError
from qdq.insertion.fusing import require_eval
from qdq.insertion.undo import atomic
from qdq.nn import QuantWeighted
from qdq.numerics.affine import fake_quantize
from qdq.records.calibration import RepairRow
from qdq.repair.layers import Reading, Step, observe, patches, repairable, rows, unrolled
from qdq.repair.repairs import REPAIRS, decibels
from qdq.sites import owner

DAMPING = 0.01  # of the mean of the diagonal; Frantar et al. 2022, sec. 3.3
BLOCK = 128  # columns whose errors reach the rest together: one product instead of many
MOST_ROWS = 2048  # of a layer's patches, taken from one batch
WIDEST = 4096  # columns that are rounded together
MOST_BYTES = 1 << 29  # of second moments that are summed in one pass over the data


@REPAIRS.add("rounding")
@atomic
def round_weights(
    model: nn.Module,
    data: Iterable[object],
    *,
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    progress: bool = True,
) -> tuple[RepairRow, ...]:
    """Round weights one column after the other so that the layer's output changes least.

    Frantar et al. 2022, "GPTQ", arXiv:2210.17323, sec. 3: what rounding a column does to the
    output is made good, as far as the inputs go together, by the columns after it. The inputs are
    those of the float model, quantized at the layer.

    Each weight then lies on the grid it had before, so that its quantizer finds the same codes
    again, here and in every exported file: the largest of each scale keeps its value, and with it
    the scale. A layer that gains nothing is left alone. One with more than `WIDEST` columns is
    rounded in equal parts, between which no error is fed.

    Args:
        model: after `insert` and `calibrate`, in eval mode.
        data: batches of inputs, with or without targets (see `qdq.data`); read again for each
            512 MiB of second moments, 4 bytes per pair of columns of a group.
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form.
        progress: show a bar on a terminal.

    Returns:
        A row per layer that the data reached: the noise is that of rounding its weight, the
        signal its product with quantized inputs; before: rounded to nearest.

    Raises:
        StepError: training mode, or no quantizers.
        CalibrationError: a site has no range, or NaN inside the model.
        InputError: no batch, a batch of another form, or one that the model does not take.
    """
    require_eval(model, "round_weights")
    layers = repairable(model)
    parts = list(_parts(layers))
    if len(parts) > 1 and iter(data) is data:
        data = list(islice(data, batches))  # a generator can be read only once
    reading = Reading(data, batches, device, step, progress)
    done: list[tuple[QuantWeighted, Tensor, RepairRow]] = []
    for part in parts:
        moments = {site: _Moment(layers[site]) for site in part}
        observe(model, {site: each.observe for site, each in moments.items()}, reading, "rounding")
        done += [(each.layer, *_rounded(each)) for each in moments.values() if each.rows]
    for layer, weight, _ in done:  # at the end: every pass is the float model's
        layer.weight.data = weight
    return tuple(row for _, _, row in done)


def _parts(layers: Mapping[str, QuantWeighted]) -> Iterator[list[str]]:
    """The sites in order, in parts whose moments fit into memory together."""
    part: list[str] = []
    room = MOST_BYTES
    for site, layer in layers.items():
        groups, columns = _shape(layer)
        size = 4 * groups * columns**2
        if part and size > room:
            yield part
            part, room = [], MOST_BYTES
        part.append(site)
        room -= size
    if part:
        yield part


def _shape(layer: QuantWeighted) -> tuple[int, int]:
    """(groups, columns) of a layer; one too wide is taken as several groups, columns in order."""
    groups, _, columns = rows(layer, layer.weight).shape
    parts = next(n for n in range(1, columns + 1) if columns % n == 0 and columns // n <= WIDEST)
    return groups * parts, columns // parts


def _split(layer: QuantWeighted, found: Tensor) -> Tensor:
    """`rows` in the groups of `_shape`: (groups, C_out of a group, columns)."""
    groups, columns = _shape(layer)
    grouped = rows(layer, found)
    parts = grouped.reshape(*grouped.shape[:2], -1, columns).transpose(1, 2)
    return parts.reshape(groups, -1, columns)


def _joined(layer: QuantWeighted, found: Tensor) -> Tensor:
    """The inverse of `_split`."""
    groups: int = getattr(layer, "groups", 1)
    parts = found.reshape(groups, -1, *found.shape[1:]).transpose(1, 2)
    return unrolled(layer, parts.flatten(2)).contiguous()


class _Moment:
    """Sum over patches of the products of each two columns: the Hessian of a layer's error.

    Attributes:
        layer: as it is.
        sum: (groups, columns, columns), in squared steps of the input: of a size float32 can hold.
        rows: how many patches were counted.
    """

    def __init__(self, layer: QuantWeighted) -> None:
        self.layer = layer
        groups, columns = _shape(layer)
        self.sum = torch.zeros(groups, columns, columns, device=layer.weight.device)
        self.rows = 0
        self._generator = torch.Generator().manual_seed(0)

    def observe(self, _site: str, x: Tensor) -> None:
        """Add the patches of one more input, or MOST_ROWS of them."""
        grid = self.layer._input_quantizer.grid(x)
        found = patches(self.layer, fake_quantize(x.float(), grid) / grid.scale.max())
        kernel = getattr(self.layer, "kernel_size", ())
        places = found.shape[: found.dim() - 1 - len(kernel)]
        count = places.numel()
        if count > MOST_ROWS:
            chosen = torch.randint(count, (MOST_ROWS,), generator=self._generator)
            found = found[torch.unravel_index(chosen.to(x.device), places)]
        columns = found.reshape(-1, *self.sum.shape[:2]).transpose(0, 1)
        self.sum += columns.transpose(1, 2) @ columns
        self.rows += columns.shape[1]


def _rounded(moment: _Moment) -> tuple[Tensor, RepairRow]:
    """The layer's weight on its grid, or as it is where nearest rounding is as good."""
    layer, products = moment.layer, moment.sum
    name = owner(layer._input_quantizer.site)
    if not bool(torch.isfinite(products).all()):
        raise CalibrationError(
            "the inputs of this layer hold NaN or infinity",
            at=name,
            fix="the float model is broken on this data: look at the layers before this one",
        )
    weight = layer.weight.detach()
    grid = layer.weight_grid()
    wide = grid.along(weight.dim())
    ends = (weight <= wide.amin) | (weight >= wide.amax)  # they stay, and with them the scale
    steps = (grid.spec.qmin - wide.zero_point, grid.spec.qmax - wide.zero_point)
    wanted, nearest, scale, keep, low, high = (
        _split(layer, each.expand_as(weight))
        for each in (weight.float(), fake_quantize(weight.float(), grid), wide.scale, ends, *steps)
    )

    def on_grid(values: Tensor, part: slice) -> Tensor:
        whole = torch.round(values / scale[..., part])
        free = whole.clamp(low[..., part], high[..., part]) * scale[..., part]
        return torch.where(keep[..., part], nearest[..., part], free)

    found = fed_forward(wanted, products, on_grid)
    noise = [_power(each - wanted, products) for each in (nearest, found)]
    if noise[1] < noise[0]:
        weight = _joined(layer, torch.where(keep, wanted, found)).to(weight.dtype)
    before_db, after_db = (decibels(_power(wanted, products), each) for each in noise)
    return weight, RepairRow(name, "rounding", before_db, max(before_db, after_db))


def _power(weight: Tensor, products: Tensor) -> float:
    """Sum of the squares of what this weight, or an error of one, makes of the patches."""
    return float(((weight @ products) * weight).sum())


def fed_forward(
    weight: Tensor, products: Tensor, on_grid: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Round columns in order, each one's error fed into those after it.

    Frantar et al. 2022, arXiv:2210.17323, sec. 3, algorithm 1. There U, of which row j says how
    column j's error is spread, is the Cholesky factor of the inverse of H; here it is the inverse
    of the other triangular factor of H itself, which is the same and needs no inverse of H.

    Args:
        weight: (groups, rows, columns).
        products: (groups, columns, columns), H: sum over samples of x x^T.
        on_grid: rounds some columns: ((groups, rows, n), which ones) -> the same shape.

    Returns:
        Of weight's shape, every column as `on_grid` gave it.
    """
    spread = _spread(products)
    left, found = weight.clone(), torch.empty_like(weight)
    columns = weight.shape[2]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = torch.empty_like(left[..., start:end])
        for column in range(start, end):
            here, after = slice(column, column + 1), slice(column + 1, end)
            found[..., here] = on_grid(left[..., here], here)
            error = (left[..., here] - found[..., here]) / spread[:, here, here]
            left[..., after] -= error * spread[:, here, after]
            errors[..., column - start : column - start + 1] = error
        left[..., end:] -= errors @ spread[:, start:end, end:]
    return found


def _spread(products: Tensor) -> Tensor:
    """U of U^T U = (H + damping)^-1, upper triangular."""
    mean = products.diagonal(dim1=1, dim2=2).mean(1)
    damping = DAMPING * torch.where(mean > 0, mean, 1.0)
    unit = torch.eye(products.shape[1]).to(products).expand_as(products)
    damped = products + damping[:, None, None] * unit
    factor: Tensor = torch.linalg.cholesky(damped.flip(1, 2)).flip(1, 2)  # times its ^T: H
    found: Tensor = torch.linalg.solve_triangular(factor, unit, upper=True)
    return found
