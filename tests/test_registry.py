"""Registries: joined by decorator, twins refused, a miss names the known."""

import pytest
from torch import nn

from qdq.errors import RegistryError
from qdq.registry import Registry, choose_one_of


def fruit() -> Registry[str, int]:
    registry: Registry[str, int] = Registry("fruit")
    registry.add("pear")(1)
    registry.add("apple")(2)
    return registry


def test_the_decorator_gives_back_what_it_stands_on() -> None:
    registry: Registry[str, type] = Registry("class")

    @registry.add("first")
    class First:
        pass

    assert First is registry["first"]
    assert isinstance(First(), First)


def test_a_twin_is_refused_and_the_first_stays() -> None:
    registry = fruit()
    with pytest.raises(RegistryError) as caught:
        registry.add("pear")(3)
    assert str(caught.value) == (
        "two fruits claim 'pear': 1 and 3\n  fix: give the new one another name"
    )
    assert registry["pear"] == 1


def test_a_miss_names_the_nearest_and_all_known_in_order() -> None:
    with pytest.raises(RegistryError) as caught:
        fruit()["peer"]
    assert str(caught.value) == ("no fruit 'peer'\n  fix: did you mean 'pear'? known: apple, pear")


def test_a_miss_far_from_all_names_only_lists_them() -> None:
    with pytest.raises(RegistryError) as caught:
        fruit()["xyz"]
    assert str(caught.value) == "no fruit 'xyz'\n  fix: known: apple, pear"


def test_a_miss_in_an_empty_registry_says_so() -> None:
    registry: Registry[str, int] = Registry("fruit")
    with pytest.raises(RegistryError, match="known: nothing is registered"):
        registry["pear"]


def test_classes_as_keys_are_shown_by_their_names() -> None:
    registry: Registry[type, int] = Registry("module")
    registry.add(nn.Linear)(1)
    with pytest.raises(RegistryError) as missed:
        registry[nn.LSTM]
    assert str(missed.value) == "no module 'LSTM'\n  fix: known: Linear"
    with pytest.raises(RegistryError, match="two modules claim 'Linear': 1 and 2"):
        registry.add(nn.Linear)(2)


def test_asking_whether_a_name_is_known_raises_nothing() -> None:
    assert "pear" in fruit()
    assert "peer" not in fruit()
    assert fruit().get("peer") is None


def test_the_suggestion_comes_before_the_list() -> None:
    assert choose_one_of("maxx", ["max", "mse"]) == "did you mean 'max'? known: max, mse"
