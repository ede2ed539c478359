"""Prices fitted to times: those that made the times are found again."""

from pathlib import Path

import numpy as np
import pytest

from qdq.errors import InputError
from qdq.graph.benching import fitting
from qdq.graph.benching.fitting import fit_costs, fit_table
from qdq.graph.benching.samples import samples
from qdq.targets.costs.measured import MACHINES
from qdq.targets.costs.tables import CostTable, cost_table

ALL = tuple(samples())


def times(factor: float, **changed: float) -> tuple[CostTable, np.ndarray]:
    """A machine's table, and what the nets take on it by that."""
    ns = {
        row: {term: price * factor for term, price in prices.items()}
        for row, prices in MACHINES["x86_vnni"][2].items()
    }
    for row, more in changed.items():
        ns[row.replace("_", ".")] = {
            term: price * more for term, price in ns[row.replace("_", ".")].items()
        }
    table = CostTable("m", "s", ns)
    bills = [[(row, each) for row, each in net.bill if row in ns] for net in ALL]
    return table, np.array([table.price(bill) for bill in bills]) / 1e3


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_times_of_a_machine_are_predicted_again(factor: float) -> None:
    _, microseconds = times(factor, conv_int8=2.0, vector_float=0.5)
    errors = [
        abs(row.predicted / row.microseconds - 1) for row in fit_table(ALL, microseconds).rows
    ]
    assert np.median(errors) < 0.02
    assert max(errors) < 0.12


def test_prices_that_many_nets_share_are_found_again() -> None:
    table, microseconds = times(2.0, conv_int8=3.0)
    found = fit_table(ALL, microseconds).table
    for row, term in (("conv.int8", "mac"), ("conv.float", "mac"), ("depthwise.int8", "position")):
        assert found.ns[row][term] == pytest.approx(table.ns[row][term], rel=0.1)


def test_a_few_nets_that_a_neighbour_disturbed_change_little() -> None:
    table, microseconds = times(1.0)
    microseconds[::12] *= 3
    found = fit_table(ALL, microseconds).table
    assert found.ns["conv.int8"]["mac"] == pytest.approx(table.ns["conv.int8"]["mac"], rel=0.1)


def test_what_is_measured_here_is_a_table_that_a_target_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "samples", lambda: ALL[::10])
    fitted = fit_costs(1, progress=False)
    assert [row.name for row in fitted.rows] == [each.name for each in ALL[::10]]
    assert all(row.microseconds > 0 for row in fitted.rows)
    fitted.table.to_json(tmp_path / "costs.json")
    assert cost_table(str(tmp_path / "costs.json")) == fitted.table
    assert f"{len(fitted.rows)} nets" in fitted.table.source


def test_rounds_that_cannot_be_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="rounds=0 is less than one\n  fix: pass 1 or more"):
        fit_costs(0)
