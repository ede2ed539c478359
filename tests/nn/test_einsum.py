"""Einsums of two tensors as one matrix product, against torch's own einsum."""

import pytest
import torch
from call_nets import RANGES, Calling, channels_on_grid, draw, on_grid, sited
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qdq.insertion.switches import disable_quantization
from qdq.nn.calls import CallSite
from qdq.nn.einsum import matrix_product


def operands(equation: str) -> list[Tensor]:
    """Tensors whose axes have one size per letter, all different; `...` is two axes."""
    letters = sorted({each for each in equation if each.isalpha()} | {"y", "z"})
    sizes = {letter: size for size, letter in enumerate(letters, start=2)}
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    axes = [term.replace("...", "yz") for term in terms]
    return [draw(*(sizes[each] for each in axis), seed=len(axis)) for axis in axes]


def assert_is_the_einsum(equation: str) -> None:
    first, second = operands(equation)
    found = matrix_product((equation, first, second), {})
    assert found is not None
    want = torch.einsum(equation, first, second)
    got = found.run(*found.operands)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "equation",
    [
        "ij,jk->ik",
        "ij,jk",
        "ij,kj->ki",
        "bij,bjk->bik",
        "bhqd,bhkd->bhqk",
        "bqhd,bkhd->bhqk",
        "bhqk,bkhd->bqhd",
        "bnc,oc->bon",
        "bnc,chd->bhnd",
        "bnhd,hdc->bnc",
        "bhnd,dhc->bnc",
        "...i,io->...o",
        "...i,oi",
        "...ij,...jk->...ik",
        "i...,io->o...",
        " i j , j k -> k i ",
    ],
)
def test_a_matrix_product_gives_what_the_einsum_gives(equation: str) -> None:
    assert_is_the_einsum(equation)


@st.composite
def equations(draw: st.DrawFn) -> str:
    """Batch, row, summed and column letters, in any order on every side."""
    batch = draw(st.sampled_from(["", "a", "ab"]))
    rows = "c" if batch else draw(st.sampled_from(["c", "cd"]))
    summed, columns = draw(st.sampled_from(["e", "ef"])), draw(st.sampled_from(["g", "gh"]))
    sides = (batch + rows + summed, batch + summed + columns, batch + rows + columns)
    first, second, result = ("".join(draw(st.permutations(each))) for each in sides)
    return f"{first},{second}->{result}"


@given(equation=equations())
@settings(max_examples=60, deadline=None)
def test_the_letters_may_stand_in_any_order(equation: str) -> None:
    assert_is_the_einsum(equation)


@pytest.mark.parametrize(
    "equation",
    [
        "ij->ji",
        "ij,jk,kl->il",
        "ii,ij->ij",
        "i,i->",
        "i,j->ij",
        "ij,j->i",
        "ij,ij->ij",
        "ij,jk->i",
        "ijk,jl->ijl",
        "bcij,bjk->bcik",
        "nd,nde->ne",
        "...ij,jk->ik...j",
    ],
)
def test_another_einsum_is_none(equation: str) -> None:
    assert matrix_product((equation, *operands(equation)), {}) is None


def test_an_einsum_of_lists_of_axes_or_of_one_tensor_is_none() -> None:
    x = torch.ones(2, 2)
    assert matrix_product((x, [0, 1], x, [1, 2], [0, 2]), {}) is None
    assert matrix_product(("ii", x), {}) is None
    assert matrix_product((), {"equation": "ij,jk->ik", "operands": [x, x]}) is None


def test_a_sum_of_a_long_axis_with_one_of_size_1_is_none() -> None:
    x, y = torch.ones(3, 1), torch.ones(5, 2)
    assert torch.einsum("ij,jk->ik", x, y).shape == (3, 2)
    assert matrix_product(("ij,jk->ik", x, y), {}) is None


ROWS, OTHER = draw(2, 5, 6), draw(2, 7, 6, seed=1)
HEADS, BACK = draw(6, 3, 4, seed=2), draw(3, 4, 6, seed=3)


def test_both_of_two_tensors_are_quantized() -> None:
    model = Calling(lambda a, b: torch.einsum("bqd,bkd->bqk", [a, b]))
    assert sited(model, ROWS, OTHER) == (CallSite("einsum_0", "einsum", 2),)
    want = on_grid(ROWS, RANGES[0]) @ on_grid(OTHER, RANGES[1]).mT
    torch.testing.assert_close(model(ROWS, OTHER), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_keeps_a_scale_for_each_column_it_makes(turned: bool) -> None:
    equation, weight = ("bnhd,hdc->bnc", BACK) if turned else ("bnc,chd->bnhd", HEADS)
    x = draw(2, 5, 3, 4) if turned else ROWS
    model = Calling(lambda x, w: torch.einsum(equation, x, w), w=weight)
    assert sited(model, x) == (CallSite("einsum_0", "einsum", 1, True),)
    matrix = weight.reshape(12, 6) if turned else weight.reshape(6, 12)
    want = on_grid(x, RANGES[0]).reshape(2, 5, -1) @ channels_on_grid(matrix, 1)
    torch.testing.assert_close(model(x).reshape(want.shape), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("constant", [False, True])
def test_switched_off_it_is_torchs_einsum_bit_for_bit(constant: bool) -> None:
    equation = "bnc,chd->bnhd" if constant else "bqd,bkd->bqk"
    kept = {"w": HEADS} if constant else {}
    given = (ROWS,) if constant else (ROWS, OTHER)
    model = Calling(lambda *x, **w: torch.einsum(equation, *x, *w.values()), **kept)
    assert sited(model, *given)
    with disable_quantization(model):
        assert torch.equal(model(*given), torch.einsum(equation, *given, *kept.values()))


def test_one_that_is_no_product_is_no_site() -> None:
    model = Calling(lambda a, b: torch.einsum("bqd,bqd->bq", a, b) + a[..., 0])
    assert [each.name for each in sited(model, ROWS, draw(2, 5, 6, seed=4))] == ["add_0"]
