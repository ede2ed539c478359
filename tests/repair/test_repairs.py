"""Every repair by its name and with the same arguments; decibels at their limits."""

import math
from inspect import signature

import pytest

from qdq import repair
from qdq.errors import RegistryError
from qdq.repair import REPAIRS
from qdq.repair.repairs import decibels


def test_every_repair_has_a_name() -> None:
    assert dict(REPAIRS) == {
        "bias": repair.correct_biases,
        "equalization": repair.equalize_channels,
        "migration": repair.migrate_outliers,
        "propagation": repair.refine_ranges,
        "rounding": repair.round_weights,
    }


@pytest.mark.parametrize("name", sorted(REPAIRS))
def test_every_repair_takes_the_same_arguments(name: str) -> None:
    parameters = signature(REPAIRS[name]).parameters.values()
    taken = [f"{each.kind.description} {each.name}" for each in parameters]
    assert taken == [
        "positional or keyword model",
        "positional or keyword data",
        *(f"keyword-only {each}" for each in ("batches", "device", "step", "progress")),
    ]


def test_a_misspelled_repair_is_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(RegistryError, match=r"no repair 'roundin'\n  fix: did you mean 'rounding'"):
        REPAIRS["roundin"]


@pytest.mark.parametrize(
    ("signal", "noise", "wanted"),
    [
        (100.0, 1.0, 20.0),
        (1.0, 2.0, -10 * math.log10(2)),
        (1.0, 0.0, math.inf),
        (0.0, 0.0, math.inf),
        (0.0, 1.0, -math.inf),
    ],
)
def test_decibels_are_ten_times_the_logarithm(signal: float, noise: float, wanted: float) -> None:
    assert decibels(signal, noise) == pytest.approx(wanted)
