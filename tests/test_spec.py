"""QuantSpec: its grid, and what it refuses."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from qdq.errors import SpecError
from qdq.spec import QuantSpec


@pytest.mark.parametrize("bits", range(2, 17))
def test_the_codes_are_those_of_an_integer_of_that_width(bits: int) -> None:
    signed, unsigned = QuantSpec(bits=bits), QuantSpec(bits=bits, signed=False)
    assert (signed.qmin, signed.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (unsigned.qmin, unsigned.qmax) == (0, 2**bits - 1)


@pytest.mark.parametrize("bits", range(2, 17))
def test_a_narrow_grid_mirrors_at_zero(bits: int) -> None:
    spec = QuantSpec(bits=bits, narrow=True)
    assert spec.qmin == -spec.qmax
    assert spec.qmax == QuantSpec(bits=bits).qmax


@pytest.mark.parametrize("bits", [1, 0, -8, 17, 32, 8.0, "8", None, True])
def test_bits_outside_2_to_16_are_refused_with_the_fix(bits: Any) -> None:
    with pytest.raises(SpecError) as caught:
        QuantSpec(bits=bits)
    assert str(caught.value) == f"bits={bits!r} is outside 2..16\n  fix: pass bits=8"


def test_an_unsigned_narrow_grid_is_refused_with_the_fix() -> None:
    with pytest.raises(SpecError) as caught:
        QuantSpec(signed=False, narrow=True)
    assert str(caught.value) == (
        "narrow=True needs a signed grid: an unsigned one has no lowest code to mirror\n"
        "  fix: pass signed=True, or leave narrow out"
    )


@pytest.mark.parametrize("axis", [0.0, "0", (0,)])
def test_an_axis_that_is_no_int_is_refused_with_the_fix(axis: Any) -> None:
    with pytest.raises(SpecError) as caught:
        QuantSpec(keep_axis=axis)
    assert str(caught.value) == (
        f"keep_axis={axis!r} is no axis\n"
        "  fix: pass one int (0 for Conv and Linear weights), or None"
    )


def test_a_spec_is_a_frozen_value() -> None:
    spec = QuantSpec(bits=4)
    with pytest.raises(FrozenInstanceError):
        spec.bits = 8  # type: ignore[misc]
    assert spec == QuantSpec(bits=4)
    assert hash(spec) == hash(QuantSpec(bits=4))
    assert spec != QuantSpec(bits=5)


def test_fields_are_passed_by_name_only() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        QuantSpec(8)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (QuantSpec(), "int8 symmetric per-tensor"),
        (QuantSpec(keep_axis=0), "int8 symmetric per-channel(0)"),
        (QuantSpec(bits=4, signed=False, symmetric=False), "uint4 affine per-tensor"),
        (QuantSpec(bits=16, keep_axis=1), "int16 symmetric per-channel(1)"),
    ],
)
def test_the_short_form_names_type_symmetry_and_scales(spec: QuantSpec, text: str) -> None:
    assert str(spec) == text
