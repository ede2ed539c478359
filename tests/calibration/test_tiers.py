"""calibrate with repairs: which run, when, on what, and what the report says of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qdq
from qdq.errors import InputError, RegistryError
from qdq.numerics.distance import sqnr
from qdq.records.calibration import RepairRow
from qdq.repair import REPAIRS
from qdq.repair.tiers import TIERS, repairs_of


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    ).eval()
    qdq.insert(model, X, target="onnxruntime")
    return model


X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def batches(count: int = 4) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        yield torch.rand(16, 3, 6, 6, generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def test_a_plain_calibration_changes_no_weight_and_runs_each_batch_once() -> None:
    model = net()
    before = weights(model)
    runs: list[object] = []
    model.register_forward_hook(lambda *_: runs.append(None))
    report = qdq.calibrate(model, list(batches(5)), progress=False)
    assert len(runs) == 5
    assert report.repairs == ()
    assert all(torch.equal(each, before[name]) for name, each in weights(model).items())


def outputs(model: nn.Module, data: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x) for x in data])


def test_the_best_tier_keeps_the_step_whose_outputs_are_closest_on_the_last_quarter() -> None:
    data = list(batches(8))
    model, ladder = net(), net()
    with qdq.disable_quantization(ladder):
        wanted = outputs(ladder, data[6:])
    qdq.calibrate(ladder, data, progress=False)
    steps = [(weights(ladder), sqnr(wanted.numpy(), outputs(ladder, data[6:]).numpy()), [])]
    rows: list[RepairRow] = []
    for name in TIERS["best"]:
        rows = [*rows, *REPAIRS[name](ladder, data[:6], progress=False)]
        found = sqnr(wanted.numpy(), outputs(ladder, data[6:]).numpy())
        steps.append((weights(ladder), found, rows))
    report = qdq.calibrate(model, data, tier="best", progress=False)
    best, _, done = max(steps, key=lambda step: step[1])
    assert list(report.repairs) == done
    assert all(torch.equal(each, best[name]) for name, each in weights(model).items())


def test_a_repair_that_harms_is_taken_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(model: nn.Module, *_args: object, **_options: object) -> tuple[RepairRow, ...]:
        model[0].weight.data = model[0].weight * 0.5  # type: ignore[index,operator,union-attr]
        return (RepairRow("0", "rounding", 1.0, 2.0),)

    monkeypatch.setitem(REPAIRS, "rounding", harm)
    monkeypatch.setitem(REPAIRS, "bias", harm)
    model = net()
    before = weights(model)
    report = qdq.calibrate(model, list(batches()), tier="best", progress=False)
    assert report.repairs == ()
    assert all(torch.equal(each, before[name]) for name, each in weights(model).items())


@pytest.mark.parametrize(
    ("data", "have"),
    [(list(batches(3)), "3 batches"), (map(Tensor.clone, batches(2)), "2 batches")],
)
def test_too_few_batches_to_judge_by_are_refused_before_any_work(data: Any, have: str) -> None:
    model = net()
    with pytest.raises(InputError) as caught:
        qdq.calibrate(model, data, tier="best", progress=False)
    assert str(caught.value) == (
        f"a tier judges its repairs on one batch in 4, and the data is {have}\n"
        "  fix: pass a list of more batches, smaller ones if need be; or name repairs that run "
        "unjudged, repair=['rounding']"
    )
    assert all(q.amax is None for q in qdq.quantizers(model).values())


def test_outputs_that_nothing_can_judge_by_are_refused() -> None:
    with pytest.raises(InputError, match="the outputs are not tensors of floats"):
        qdq.calibrate(net(), list(batches()), tier="best", step=silent, progress=False)
    with pytest.raises(InputError, match="the shapes of the outputs depend on values"):
        qdq.calibrate(net(), list(batches()), tier="best", step=picky, progress=False)


def silent(model: nn.Module, batch: Any) -> None:
    model(batch)


def picky(model: nn.Module, batch: Any) -> Tensor:
    """As many rows as there are differences from the last call."""
    result: Tensor = model(batch)
    picky.calls += 1  # type: ignore[attr-defined]
    return result[: 1 + picky.calls % 7]  # type: ignore[attr-defined]


picky.calls = 0  # type: ignore[attr-defined]


def test_a_name_in_place_of_a_list_of_repairs_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        qdq.calibrate(net(), list(batches()), repair="bias")
    assert str(caught.value) == "repair='bias' is no list\n  fix: pass repair=['bias']"


def test_a_repair_that_the_tier_tries_itself_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        qdq.calibrate(net(), list(batches()), tier="best", repair=["bias"])
    assert str(caught.value) == (
        "tier='best' tries 'bias' by itself, and keeps it where it helps\n"
        "  fix: leave 'bias' out of repair=, or pass tier='plain' to have it in any case"
    )


def test_a_generator_is_enough_for_several_passes() -> None:
    model, twin = net(), net()
    names = ["bias", "rounding", "propagation", "equalization"]
    qdq.calibrate(model, batches(), repair=names, batches=3, progress=False)
    qdq.calibrate(twin, list(batches(3)), repair=names, progress=False)
    wanted = weights(twin)
    assert all(torch.equal(each, wanted[name]) for name, each in weights(model).items())


def test_without_repairs_a_row_says_which_method_chose_it() -> None:
    for method in ("mse", "percentile", "entropy", "max"):
        report = qdq.calibrate(net(), list(batches()), method=method, progress=False)
        assert {row.method for row in report.rows} == {method}
        assert all(row.why.startswith(f"{method} clips ") for row in report.rows)


def test_repairs_run_in_the_order_that_makes_sense_whatever_order_is_asked_for() -> None:
    asked = ["bias", "propagation", "migration", "rounding", "equalization"]
    before, after = repairs_of("plain", asked)
    assert before == ("equalization", "migration")
    assert after == ("propagation", "rounding", "bias")
    assert sorted([*before, *after]) == sorted(REPAIRS)
    assert repairs_of("best", ["equalization"]) == (("equalization",), ())


def test_the_report_has_the_ranges_that_propagation_left() -> None:
    model = net()
    report = qdq.calibrate(model, list(batches()), repair=["propagation"], progress=False)
    sites = qdq.quantizers(model)
    for row in report.rows:
        assert (row.amin, row.amax) == (float(sites[row.site].amin), float(sites[row.site].amax))
    moved = [row for row in report.rows if row.method == "propagation"]
    wanted = {row.layer for row in report.repairs if row.after_db > row.before_db}
    assert wanted <= {row.site for row in moved}
    assert len(moved) < len(report.rows)
    assert all(row.why.startswith("propagation: after mse clips ") for row in moved)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tier": "bets"}, "no tier 'bets'\n  fix: did you mean 'best'"),
        ({"repair": ["roundin"]}, "no repair 'roundin'\n  fix: did you mean 'rounding'"),
    ],
)
def test_a_misspelled_name_costs_no_pass_over_the_data(asked: dict[str, object], said: str) -> None:
    read: list[Tensor] = []

    def data() -> Iterator[Tensor]:
        for batch in batches():
            read.append(batch)
            yield batch

    with pytest.raises(RegistryError) as caught:
        qdq.calibrate(net(), data(), **asked)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
    assert read == []


def test_after_an_error_in_a_repair_weights_and_ranges_are_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_args: object, **_options: object) -> object:
        raise InputError("cable pulled")

    model = net()
    before = weights(model)
    monkeypatch.setitem(REPAIRS, "bias", broken)
    with pytest.raises(InputError, match="cable pulled"):
        qdq.calibrate(model, list(batches()), repair=["rounding", "bias"], progress=False)
    assert all(torch.equal(each, before[name]) for name, each in weights(model).items())
    assert all(q.amax is None for q in qdq.quantizers(model).values())
