"""Batches taken apart, counted and refused; calling a model with them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qdq.data import (
    Batch,
    call,
    device_of,
    length,
    numbered,
    read,
    take_apart,
    tensors_of,
    to_device,
)
from qdq.errors import InputError, SpecError

X, Y = torch.ones(2, 3), torch.tensor([0, 1])


class Named(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


@pytest.mark.parametrize(
    ("batch", "inputs", "target"),
    [
        (X, X, None),
        ((X,), X, None),
        ((X, Y), X, Y),
        ([X, Y], X, Y),
        (((X, X), Y), (X, X), Y),
        (({"a": X}, Y), {"a": X}, Y),
        ({"a": X, "labels": Y}, {"a": X}, Y),
        ({"a": X}, {"a": X}, None),
    ],
    ids=["tensor", "1-tuple", "2-tuple", "list", "tuple inputs", "dict inputs", "dict", "no label"],
)
def test_every_allowed_form_says_what_is_input_and_what_is_target(
    batch: object, inputs: object, target: object
) -> None:
    taken = take_apart(batch, 7)
    assert taken.index == 7
    assert [id(t) for t in tensors_of(taken.inputs)] == [id(t) for t in tensors_of(inputs)]
    assert type(taken.inputs) is type(inputs)
    assert taken.target is target


def test_taking_a_dict_apart_leaves_it_whole() -> None:
    batch = {"a": X, "labels": Y}
    take_apart(batch)
    assert set(batch) == {"a", "labels"}


@pytest.mark.parametrize(
    ("batch", "shown"),
    [((X, X, Y), "a tuple of 3"), ((), "a tuple of 0"), ("abc", "a str"), (5, "a int")],
)
def test_another_form_is_refused_with_step_as_the_fix(batch: object, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        take_apart(batch, 3)
    assert str(caught.value) == (
        f"batch 3 is {shown}, which does not say what is input and what is target\n"
        "  fix: yield (inputs, target) with inputs a tensor, a tuple or a dict; or pass step=, "
        "a function (model, batch) that runs the forward"
    )


def test_inputs_that_are_no_tensors_are_refused_by_their_type() -> None:
    with pytest.raises(InputError) as caught:
        take_apart((X.numpy(), Y), 2)
    assert str(caught.value) == (
        "the inputs of batch 2 are a ndarray\n"
        "  fix: yield (inputs, target) with inputs a tensor, a tuple or a dict of tensors"
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["tensor", "nested", "dict"])
def test_nan_and_infinity_are_refused_wherever_they_hide(bad: float, form: str) -> None:
    broken = X.clone()
    broken[1, 2] = bad
    forms = {"tensor": broken, "nested": ((X, [X, broken]), Y), "dict": {"a": X, "b": broken}}
    with pytest.raises(InputError) as caught:
        take_apart(forms[form], 4)
    assert str(caught.value).startswith("batch 4 holds NaN or infinity\n  fix: look at how")


def test_a_target_may_be_infinite_and_inputs_may_be_integers() -> None:
    target = torch.tensor([float("inf")])
    assert take_apart((torch.tensor([1]), target)).target is target


def test_reading_numbers_the_batches_and_takes_them_apart() -> None:
    taken = list(read([(X, Y), X]))
    assert [batch.index for batch in taken] == [0, 1]
    assert taken[0].target is Y
    assert isinstance(taken[1], Batch)


def test_a_data_loader_reads_as_its_tuples() -> None:
    loader = DataLoader(TensorDataset(torch.arange(6.0).view(6, 1), torch.arange(6)), batch_size=4)
    assert [len(batch.target) for batch in read(loader)] == [4, 2]


def test_no_more_batches_are_drawn_than_the_limit() -> None:
    drawn = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            drawn.append(1)
            yield X

    assert [index for index, _ in numbered(endless(), limit=3)] == [0, 1, 2]
    assert len(drawn) == 3


@pytest.mark.parametrize("data", [X, {"a": X}, "digits", 5, None])
def test_what_is_no_collection_of_batches_is_refused_with_the_fix(data: Any) -> None:
    with pytest.raises(InputError) as caught:
        list(numbered(data))
    assert str(caught.value) == (
        f"data is a {type(data).__name__}, not batches\n"
        "  fix: pass an iterable of batches: a DataLoader, or a list, [batch]"
    )


@pytest.mark.parametrize("data", [[], iter([])])
def test_data_without_a_batch_is_refused_and_names_the_read_generator(data: Any) -> None:
    with pytest.raises(InputError) as caught:
        list(read(data))
    assert str(caught.value).startswith("the data holds no batch\n  fix: pass at least one; a gen")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_reads_nothing_is_refused(limit: int) -> None:
    with pytest.raises(InputError) as caught:
        list(numbered([X], limit=limit))
    assert str(caught.value) == (
        f"batches={limit} reads nothing\n  fix: pass 1 or more, or None for all"
    )


@pytest.mark.parametrize(
    ("data", "limit", "expected"),
    [
        ([X, X], None, 2),
        ([X, X], 1, 1),
        ([X, X], 5, 2),
        (iter([X]), 5, None),
        (iter([X]), None, None),
    ],
)
def test_the_length_is_known_exactly_where_the_data_has_one(
    data: Any, limit: int | None, expected: int | None
) -> None:
    assert length(data, limit) == expected


def test_inputs_are_spread_as_the_model_takes_them() -> None:
    a, b = X * 5, X * 2
    for inputs in ((a, b), [a, b], {"b": b, "a": a}):
        assert torch.equal(call(Named(), inputs), X * 3)
    assert torch.equal(call(nn.Identity(), a), a)


def test_what_the_model_says_of_bad_inputs_is_passed_on_with_their_shapes() -> None:
    with pytest.raises(InputError) as caught:
        call(nn.Linear(4, 2), torch.ones(2, 3))
    text = str(caught.value)
    assert text.startswith("the model does not take inputs of shape (2, 3): RuntimeError: mat1 and")
    assert text.endswith("\n  at:  Linear\n  fix: pass inputs as the float model takes them")
    with pytest.raises(InputError, match=r"shape \(2, 3\), \(2,\): TypeError: .*forward\(\)"):
        call(nn.Identity(), (X, Y))


def test_our_own_errors_pass_through_a_call_unchanged() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise SpecError("mine")

    with pytest.raises(SpecError, match=r"^mine$"):
        call(Picky(), X)


def test_a_nest_of_tensors_moves_whole_and_keeps_what_is_no_tensor() -> None:
    moved = to_device({"a": X, "b": (X, [X, 5]), "c": "text"}, "meta")
    assert {t.device.type for t in tensors_of(moved)} == {"meta"}
    assert len(tensors_of(moved)) == 3
    assert moved["b"][1][1] == 5
    assert moved["c"] == "text"


def test_the_device_of_a_model_is_that_of_its_first_tensor() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"
    only_buffers = nn.BatchNorm1d(2, affine=False, device="meta")
    assert device_of(only_buffers).type == "meta"


def test_what_the_data_raises_while_it_is_read_names_the_batch() -> None:
    def failing() -> Iterator[torch.Tensor]:
        yield X
        raise OSError("disk gone\nand more")

    with pytest.raises(InputError) as caught:
        list(read(failing()))
    assert str(caught.value) == (
        "reading batch 1 failed: OSError: disk gone\n"
        "  fix: iterate over the data by itself to see where"
    )
