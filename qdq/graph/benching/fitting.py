"""Prices of the machine this runs on, fitted to what small nets take on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime

from qdq.graph.benching.chains import REORDER, Sample
from qdq.graph.benching.least_squares import Floats, nonnegative_least_squares
from qdq.graph.benching.machines import cpu_name
from qdq.graph.benching.opening import draw_inputs, open_session
from qdq.graph.benching.samples import samples
from qdq.graph.benching.turns import MOST_ROUNDS, check_count, take_turns
from qdq.targets.costs.layers import Bill
from qdq.targets.costs.measured import MACHINES
from qdq.targets.costs.tables import CostTable

_TURN_MS = 2.0
_REWEIGHTINGS = 12
_SMALL_ERROR = 0.02
_HOLD = 0.1  # how much a price that is twice the expected one counts, against a net's error
_REORDER = {"element": 0.15, "call": 1000.0}
_ROWS = MACHINES["x86_vnni"][2]  # the rows and terms that there are


@dataclass(frozen=True)
class SampleRow:
    """One net that was measured.

    Attributes:
        name: what it is made of.
        microseconds: of one run.
        predicted: the same by the fitted table.
    """

    name: str
    microseconds: float
    predicted: float


@dataclass(frozen=True)
class CostFit:
    """A table and what it was fitted to.

    Attributes:
        table: the prices of this machine.
        rows: one per net.
    """

    table: CostTable
    rows: tuple[SampleRow, ...]


def fit_costs(rounds: int = 30, *, progress: bool = True) -> CostFit:
    """Measure this machine on one thread, by CPU time, and fit a table of costs to it.

    Args:
        rounds: turns of each of some 200 small nets; the least time counts, for whatever a busy
            neighbour does adds to it.
        progress: show a bar on a terminal.

    Raises:
        InputError: rounds that cannot be.
    """
    check_count("rounds", rounds, MOST_ROUNDS)
    chosen = list(samples())
    jobs = [_job(each) for each in chosen]
    turns = take_turns(jobs, rounds, turn_ms=_TURN_MS, progress=progress)
    return fit_table(chosen, turns.ms.min(axis=0) * 1e3)


def fit_table(chosen: Sequence[Sample], microseconds: Floats) -> CostFit:
    """The prices that explain these times best: least relative errors, and none below 0.

    Args:
        chosen: nets with their bills; every row of a table is on one of them.
        microseconds: (len(chosen),) of one run of each, > 0.
    """
    terms = [(row, term) for row, prices in _ROWS.items() for term in prices]
    terms += [(REORDER, term) for term in _REORDER]
    amounts = np.array([_amounts(each.bill, terms) for each in chosen])
    a = amounts * 1e-3 / microseconds[:, None]
    prices = _least_errors(a, _expected(a, terms))
    predicted = amounts @ prices * 1e-3
    errors = np.abs(predicted / microseconds - 1)
    ns: dict[str, dict[str, float]] = {row: {} for row in _ROWS}
    for (row, term), price in zip(terms, prices, strict=True):
        if row != REORDER:
            ns[row][term] = float(price)
    middle, most = np.percentile(errors * 100, (50, 90))
    source = (
        f"onnxruntime {onnxruntime.__version__}, {len(chosen)} nets, least relative errors: "
        f"half of them below {middle:.0f} %, nine of ten below {most:.0f} %"
    )
    rows = tuple(
        SampleRow(each.name, float(is_so), float(said))
        for each, is_so, said in zip(chosen, microseconds, predicted, strict=True)
    )
    return CostFit(CostTable(f"{cpu_name()}, one thread", source, ns), rows)


def _expected(a: Floats, terms: Sequence[tuple[str, str]]) -> Floats:
    """Prices of the table that comes with the package, for a machine as fast as this one."""
    known = np.array([_ROWS.get(row, _REORDER).get(term, 0.0) for row, term in terms])
    fast: Floats = known / np.median(a @ known)
    return fast


def _least_errors(a: Floats, expected: Floats) -> Floats:
    """The x >= 0 with the least sum of |a x - 1|: one outlier hardly counts.

    By least squares with weights from the errors before (Lawson 1961). What `a` does not tell
    apart stays near what is expected.
    """
    weights = np.ones(len(a))
    held = _HOLD * np.diag(1 / expected)
    for _ in range(_REWEIGHTINGS):
        rows = np.concatenate((a * weights[:, None], held))
        x = nonnegative_least_squares(rows, np.append(weights, np.full(len(held), _HOLD)))
        weights = 1 / np.sqrt(np.maximum(np.abs(a @ x - 1), _SMALL_ERROR))
    return x


def _job(sample: Sample) -> Callable[[], object]:
    session = open_session(sample.content, at=sample.name)
    return partial(session.run, None, draw_inputs(session, at=sample.name))


def _amounts(bill: Bill, terms: Sequence[tuple[str, str]]) -> list[float]:
    """How much of each term a net has."""
    found = dict.fromkeys(terms, 0.0)
    for row, amounts in bill:
        for term, amount in amounts.items():
            if (row, term) in found:
                found[row, term] += amount
    return list(found.values())
