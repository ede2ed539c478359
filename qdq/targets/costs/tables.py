"""CostTable: how many nanoseconds each term of a layer costs one machine."""

import json
from dataclasses import dataclass
from pathlib import Path

from qdq.errors import InputError
from qdq.records.base import Record
from qdq.registry import choose_one_of
from qdq.targets.costs.layers import Bill
from qdq.targets.costs.measured import MACHINES

_LARGEST = 1 << 20  # bytes of a file
_DEAREST = 1e9  # nanoseconds of one of anything: sums of such prices stay finite


@dataclass(frozen=True)
class CostTable(Record):
    """Prices of one machine, on one thread.

    Attributes:
        machine: what was measured.
        source: with what, and how far it is off.
        ns: row ("conv.int8") -> term ("mac") -> nanoseconds of one of it; a term that a row has
            not costs nothing.
    """

    machine: str
    source: str
    ns: dict[str, dict[str, float]]

    def price(self, bill: Bill) -> float:
        """Nanoseconds of these terms."""
        return sum(
            self.ns[row].get(term, 0.0) * amount
            for row, amounts in bill
            for term, amount in amounts.items()
        )

    def __str__(self) -> str:
        return f"{self.machine}: {self.source}"


def cost_table(name: str) -> CostTable:
    """A table that comes with the package, or one that `qdq bench --fit` wrote.

    Args:
        name: as `MACHINES` has them, or the path of a .json file.

    Raises:
        InputError: neither, or a file that is no table.
    """
    if name in MACHINES:
        machine, source, ns = MACHINES[name]
        return CostTable(machine, source, ns)
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no table of costs {name!r}",
            fix=f"{choose_one_of(name, sorted(MACHINES))}; "
            "or measure this machine: `qdq bench --fit costs.json`",
        )
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        table = CostTable.from_dict(json.loads(path.read_text("utf-8")))
        _check(table)
    except (InputError, OSError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"this is no table of costs: {first}",
            at=name,
            fix="write one of this machine: `qdq bench --fit costs.json`",
        ) from error
    return table


def _check(table: CostTable) -> None:
    """ValueError unless all rows are there and all prices are possible."""
    rows = MACHINES["x86_vnni"][2]
    odd = sorted(rows.keys() ^ table.ns.keys())
    if odd:
        raise ValueError(f"{odd[0]!r} is {'missing' if odd[0] in rows else 'no row of one'}")
    for row, prices in table.ns.items():
        for term, price in prices.items():
            if term not in rows[row] or not 0 <= price <= _DEAREST:
                raise ValueError(f"{row}: {term} = {price}")
