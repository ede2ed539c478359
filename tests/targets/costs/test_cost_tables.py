"""Tables of costs: those that come with the package, and files of strangers."""

import json
from pathlib import Path
from typing import Any

import pytest

from qdq.errors import InputError
from qdq.targets.costs.measured import MACHINES
from qdq.targets.costs.tables import CostTable, cost_table


def written(path: Path, table: CostTable, **changed: Any) -> str:
    path.write_text(json.dumps(table.to_dict() | changed), "utf-8")
    return str(path)


@pytest.mark.parametrize("name", MACHINES)
def test_a_shipped_table_prices_every_row_and_says_where_it_is_from(name: str) -> None:
    table = cost_table(name)
    assert table.ns.keys() == MACHINES["x86_vnni"][2].keys()
    assert all(price > 0 for prices in table.ns.values() for price in prices.values())
    assert table.machine in str(table)
    assert "onnxruntime" in table.source


def test_a_bill_costs_the_sum_of_its_terms_and_what_has_no_price_costs_nothing() -> None:
    table = CostTable("m", "s", {"a": {"mac": 2.0, "call": 100.0}, "b": {"element": 0.5}})
    bill = [("a", {"mac": 10.0, "call": 1.0, "output": 7.0}), ("b", {"element": 4.0})]
    assert table.price(bill) == 2.0 * 10 + 100 + 0.5 * 4


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table = cost_table("x86_vnni")
    table.to_json(tmp_path / "costs.json")
    assert cost_table(str(tmp_path / "costs.json")) == table


def test_an_unknown_table_names_the_known_ones_and_the_way_to_one() -> None:
    with pytest.raises(InputError) as caught:
        cost_table("x86_vni")
    assert str(caught.value) == (
        "there is no table of costs 'x86_vni'\n"
        "  fix: did you mean 'x86_vnni'? known: x86_vnni; "
        "or measure this machine: `qdq bench --fit costs.json`"
    )


@pytest.mark.parametrize(
    ("ns", "what"),
    [
        ({"conv.int8": {"mac": float("nan")}}, "conv.int8: mac = nan"),
        ({"conv.int8": {"mac": -1.0}}, "conv.int8: mac = -1.0"),
        ({"conv.int8": {"mac": float("inf")}}, "conv.int8: mac = inf"),
        ({"conv.int8": {"mac": 1e308}}, "conv.int8: mac = 1e+308"),
        ({"conv.int8": {"macs": 1.0}}, "conv.int8: macs = 1.0"),
        ({"gelu.int8": {"element": 1.0}}, "'gelu.int8' is no row of one"),
    ],
)
def test_impossible_prices_are_refused_by_name(
    tmp_path: Path, ns: dict[str, dict[str, float]], what: str
) -> None:
    table = cost_table("x86_vnni")
    path = written(tmp_path / "costs.json", table, ns=table.ns | ns)
    with pytest.raises(InputError) as caught:
        cost_table(path)
    assert str(caught.value) == (
        f"this is no table of costs: {what}\n  at:  {path}\n"
        "  fix: write one of this machine: `qdq bench --fit costs.json`"
    )


def test_a_table_with_a_row_missing_is_refused(tmp_path: Path) -> None:
    table = cost_table("x86_vnni")
    ns = {row: prices for row, prices in table.ns.items() if row != "session"}
    with pytest.raises(InputError, match="no table of costs: 'session' is missing"):
        cost_table(written(tmp_path / "costs.json", table, ns=ns))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "not json", '{"machine": 1}', "[" * 100_000, "\x00", "9" * (2 << 20)]
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"^this is no table of costs: "):
        cost_table(str(path))
