"""Which repairs run, in which order, and which of them a tier keeps."""

from collections.abc import Collection, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from qdq.data import Window, length, tensors_of
from qdq.errors import InputError
from qdq.insertion.undo import Snapshot
from qdq.records.calibration import RepairRow
from qdq.registry import Registry
from qdq.repair.layers import Reading, forwards, observed
from qdq.repair.repairs import REPAIRS, decibels

# The float weights first; then ranges, of which rounding needs those of the inputs; last the
# biases, which make good what all others leave.
BEFORE = ("equalization", "migration")
AFTER = ("propagation", "rounding", "bias")

# Tried one on top of the other, see `keep_the_best`.
TIERS: Registry[str, tuple[str, ...]] = Registry("tier")
TIERS["plain"] = ()
TIERS["best"] = ("rounding", "bias")
JUDGED = 4  # one batch in so many judges


def repairs_of(tier: str, repair: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the repairs of `repair` to run before ranges are chosen, and after, in order.

    Args:
        tier: a name in `TIERS`, whose own repairs are tried behind them.
        repair: names in `REPAIRS`.

    Raises:
        RegistryError: no such tier or repair.
        InputError: a repair that the tier tries by itself.
    """
    tried = TIERS[tier]
    if isinstance(repair, str):
        raise InputError(f"repair={repair!r} is no list", fix=f"pass repair=[{repair!r}]")
    for name in repair:
        REPAIRS[name]
        if name in tried:
            raise InputError(
                f"tier={tier!r} tries {name!r} by itself, and keeps it where it helps",
                fix=f"leave {name!r} out of repair=, or pass tier='plain' to have it in any case",
            )
    before, after = (tuple(n for n in names if n in repair) for names in (BEFORE, AFTER))
    return before, after


def mend(model: nn.Module, reading: Reading, names: Iterable[str]) -> tuple[RepairRow, ...]:
    """Run repairs in the order of their names, each over the whole data.

    Args:
        model: after `insert`; for those of `AFTER` with ranges.
        reading: data that can be read several times.
        names: in `REPAIRS`.

    Returns:
        What each did to each layer.
    """
    rows: list[RepairRow] = []
    for name in names:
        rows += REPAIRS[name](
            model,
            reading.data,
            batches=reading.batches,
            device=reading.device,
            step=reading.step,
            progress=reading.progress,
        )
    return tuple(rows)


def judges_of(reading: Reading) -> tuple[int, int]:
    """Number of the first batch that judges repairs, and of all batches.

    Raises:
        InputError: there are fewer than `JUDGED` batches, or nobody knows how many.
    """
    known = length(reading.data, reading.batches)
    if known is None or known < JUDGED:
        have = "of unknown length" if known is None else f"{known} batches"
        raise InputError(
            f"a tier judges its repairs on one batch in {JUDGED}, and the data is {have}",
            fix="pass a list of more batches, smaller ones if need be; or name repairs that run "
            "unjudged, repair=['rounding']",
        )
    return known - known // JUDGED, known


def keep_the_best(
    model: nn.Module, reading: Reading, names: Collection[str]
) -> tuple[RepairRow, ...]:
    """Run repairs one on top of the other, and go back to where the outputs were best.

    What helps one net harms another by some tenths of a dB. So the last quarter of the batches,
    from which no repair learns, judges: by the SQNR of the outputs against the float ones. Give
    the same batches at each reading: one that is shuffled anew lets repairs see what judges.

    Args:
        model: after `insert`, with ranges.
        reading: data that can be read several times.
        names: in `REPAIRS`.

    Returns:
        What the repairs that were kept did to each layer.
    """
    if not names:
        return ()
    start, known = judges_of(reading)
    learning = replace(reading, data=Window(reading.data, 0, start), batches=None)
    judges = list(Window(reading.data, start, known))  # once: read again, they may be others
    judging = replace(reading, data=judges, batches=None)
    with observed(model, {}):
        wanted = _outputs(model, judging)
    best, kept = _sqnr(wanted, _outputs(model, judging)), Snapshot(model)
    rows: tuple[RepairRow, ...] = ()
    tried: tuple[RepairRow, ...] = ()
    for name in names:
        tried += mend(model, learning, [name])
        found = _sqnr(wanted, _outputs(model, judging))
        if found > best:
            best, kept, rows = found, Snapshot(model), tried
    kept.restore()
    return rows


def _outputs(model: nn.Module, reading: Reading) -> list[Tensor]:
    """Every float tensor that the model gives, batch by batch."""
    results = [forward() for forward in forwards(model, reading, "judging")]
    found = [each for each in tensors_of(results) if each.is_floating_point()]
    if not any(bool(each.isfinite().any()) for each in found):
        raise InputError(
            "the outputs are not tensors of floats, and so nothing can judge repairs",
            fix="pass step=, a function (model, batch) that returns the outputs as a tensor, a "
            "tuple or a dict; or name repairs, repair=['rounding'], that run unjudged",
        )
    return found


def _sqnr(wanted: list[Tensor], found: list[Tensor]) -> float:
    """Of all outputs together, dB."""
    if [each.shape for each in wanted] != [each.shape for each in found]:
        raise InputError(
            "the shapes of the outputs depend on values, and so nothing can judge repairs",
            fix="pass step=, a function (model, batch) that returns what is there before boxes "
            "are chosen; or name repairs, repair=['rounding'], that run unjudged",
        )
    finite = [torch.isfinite(each) for each in wanted]  # what is masked with -inf
    pairs = [
        (a[kept].double(), b[kept].double())
        for a, b, kept in zip(wanted, found, finite, strict=True)
    ]
    signal = sum(float(a.square().sum()) for a, _ in pairs)
    return decibels(signal, sum(float(torch.dist(a, b)) ** 2 for a, b in pairs))
