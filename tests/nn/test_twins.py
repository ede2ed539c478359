"""register(): which quantized class takes the place of which float class."""

from collections.abc import Iterator

import pytest
from torch import nn

from qdq.errors import RegistryError
from qdq.nn import QuantConv2d, QuantLinear, QuantWeighted, register
from qdq.nn.twins import REFUSALS, TWINS, why_float


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = [(held, dict(held)) for held in (TWINS, REFUSALS)]
    yield
    for held, was in before:
        held.clear()
        held.update(was)


class Custom(nn.Linear):
    pass


def test_the_shipped_layers_have_their_twins() -> None:
    assert TWINS[nn.Conv2d] is QuantConv2d
    assert TWINS[nn.Linear] is QuantLinear


def test_a_users_module_joins_and_is_given_back() -> None:
    class QuantCustom(QuantWeighted, Custom):
        kind = "linear"

    assert register(Custom)(QuantCustom) is QuantCustom
    assert TWINS[Custom] is QuantCustom
    assert TWINS[nn.Linear] is QuantLinear


def refusal(layer: nn.Module) -> str:
    wide = layer.out_features > 4
    return f"out_features={layer.out_features} is too wide" if wide else ""


def test_a_twin_may_leave_some_layers_of_its_type_float_and_says_why() -> None:
    class QuantCustom(QuantWeighted, Custom):
        kind = "linear"

    register(Custom, unless=refusal)(QuantCustom)
    assert why_float(Custom(2, 5)) == "out_features=5 is too wide"
    assert why_float(Custom(2, 4)) == ""
    assert why_float(nn.Linear(2, 5)) == ""


def test_a_twin_that_is_refused_leaves_nothing_behind() -> None:
    class Stranger(QuantWeighted, nn.Linear):
        kind = "linear"

    with pytest.raises(RegistryError):
        register(Custom, unless=refusal)(Stranger)
    assert Custom not in TWINS
    assert why_float(Custom(2, 5)) == ""


def test_a_second_twin_is_refused_and_the_first_stays() -> None:
    class Other(QuantWeighted, nn.Linear):
        kind = "linear"

    with pytest.raises(RegistryError) as caught:
        register(nn.Linear)(Other)
    text = str(caught.value)
    assert text.startswith("two quantized modules claim 'Linear': ")
    assert "QuantLinear" in text
    assert "Other" in text
    assert text.endswith("\n  fix: give the new one another name")
    assert TWINS[nn.Linear] is QuantLinear


def test_a_class_without_add_quantizers_is_refused() -> None:
    class Bare(Custom):
        kind = "linear"

    with pytest.raises(RegistryError) as caught:
        register(Custom)(Bare)
    assert str(caught.value) == (
        f"{Bare.__qualname__} has no `add_quantizers`\n"
        "  fix: derive from qdq.nn.QuantWeighted, or write it: see qdq/nn/linear.py"
    )
    assert Custom not in TWINS


def test_a_class_without_a_kind_is_refused() -> None:
    class Kindless(QuantWeighted, Custom):
        pass

    with pytest.raises(RegistryError, match="has no `kind`"):
        register(Custom)(Kindless)


def test_a_class_of_another_family_is_refused_with_the_line_to_write() -> None:
    class Stranger(QuantWeighted, nn.Linear):
        kind = "linear"

    with pytest.raises(RegistryError) as caught:
        register(nn.Bilinear)(Stranger)
    name = Stranger.__qualname__
    assert str(caught.value) == (
        f"{name} is no Bilinear\n  fix: class {name}(QuantWeighted, Bilinear)"
    )
    assert nn.Bilinear not in TWINS


def test_a_float_class_without_a_twin_is_named_with_those_that_have_one() -> None:
    with pytest.raises(RegistryError) as caught:
        TWINS[Custom]
    text = str(caught.value)
    assert text.startswith("no quantized module 'Custom'\n")
    assert "Linear" in text
    assert "Conv2d" in text
