"""Which repairs run, and in which order."""

from collections.abc import Collection, Iterable

from torch import nn

from qdq.records.calibration import RepairRow
from qdq.registry import Registry
from qdq.repair.layers import Reading
from qdq.repair.repairs import REPAIRS

# The float weights first; then ranges, of which rounding needs those of the inputs; last the
# biases, which make good what all others leave.
BEFORE = ("equalization", "migration")
AFTER = ("propagation", "rounding", "bias")

TIERS: Registry[str, tuple[str, ...]] = Registry("tier")
TIERS["plain"] = ()
# On every net that was tried it gains; "bias" and "propagation" gain on some and lose on others.
TIERS["best"] = ("rounding",)


def repairs_of(tier: str, repair: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the repairs to run before ranges are chosen, and after, each in order.

    Args:
        tier: a name in `TIERS`.
        repair: names in `REPAIRS`, on top of those of the tier.

    Raises:
        RegistryError: no such tier or repair.
    """
    wanted = {*TIERS[tier], *repair}
    for name in wanted:
        REPAIRS[name]
    before, after = (tuple(n for n in names if n in wanted) for names in (BEFORE, AFTER))
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
