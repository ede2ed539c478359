"""The learning rate against the formula, and the course's own checks."""

import math
from typing import Any

import pytest

from qdq.errors import InputError, RegistryError
from qdq.training.schedule import Course, rate


def course(**changes: Any) -> Course:
    usual: dict[str, Any] = {
        "epochs": 4,
        "lr": 0.1,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "warmup_epochs": 0.0,
        "freeze_batchnorm": True,
    }
    return Course(**usual | changes)


def test_without_warmup_it_is_half_a_cosine_from_one_to_zero() -> None:
    found = [rate(tick, 8) for tick in range(9)]
    assert found == pytest.approx([0.5 + 0.5 * math.cos(math.pi * t / 8) for t in range(9)])
    assert (found[0], found[4], found[8]) == pytest.approx((1.0, 0.5, 0.0))
    assert found == sorted(found, reverse=True)


def test_warmup_rises_in_equal_steps_from_above_zero_and_the_cosine_takes_the_rest() -> None:
    found = [rate(tick, 13, warmup=3) for tick in range(14)]
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[3:] == pytest.approx([rate(tick, 10) for tick in range(11)])


@pytest.mark.parametrize(
    ("warmup", "steps", "ticks"),
    [(0.0, 10, (40, 0)), (1.5, 10, (40, 15)), (3.99, 10, (40, 39)), (1.0, None, (4, 1))],
)
def test_ticks_are_steps_or_where_nobody_knows_those_epochs(
    warmup: float, steps: int | None, ticks: tuple[int, int]
) -> None:
    assert course(warmup_epochs=warmup).ticks(steps) == ticks


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "epochs=0 cannot be\n  fix: pass 1, 2, 3, ..."),
        ({"epochs": 1.5}, "epochs=1.5 cannot be\n  fix: pass 1, 2, 3, ..."),
        ({"lr": 0.0}, "lr=0.0 cannot be\n  fix: pass a number above 0, 1e-3 for a start"),
        ({"lr": math.nan}, "lr=nan cannot be\n  fix: pass a number above 0, 1e-3 for a start"),
        (
            {"momentum": 1.0},
            "momentum=1.0 cannot be\n  fix: pass a number in 0 <= momentum < 1, such as 0.9",
        ),
        (
            {"weight_decay": -1.0},
            "weight_decay=-1.0 cannot be\n  fix: pass 0 for none, or such as 1e-4",
        ),
        (
            {"warmup_epochs": 4.0},
            "warmup_epochs=4.0 cannot be\n  fix: pass 0 <= warmup_epochs < epochs",
        ),
    ],
)
def test_a_number_out_of_its_bounds_is_refused_with_the_bounds(
    change: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputError) as caught:
        course(**change)
    assert str(caught.value) == text


def test_an_unknown_optimizer_names_the_known() -> None:
    with pytest.raises(RegistryError) as caught:
        course(optimizer="lion")
    assert str(caught.value) == "no optimizer 'lion'\n  fix: known: adamw, sgd"
