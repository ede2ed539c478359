"""What a command line says to call a model with."""

import pytest
import torch

from qdq.data.examples import names_source, zeros
from qdq.errors import InputError


def test_a_shape_is_one_tensor_of_zeros_and_several_are_a_tuple() -> None:
    one = zeros(["1,3,4"])
    assert isinstance(one, torch.Tensor)
    assert torch.equal(one, torch.zeros(1, 3, 4))
    several = zeros(["2", " 1 , 3"])
    assert isinstance(several, tuple)
    assert [tuple(each.shape) for each in several] == [(2,), (1, 3)]


@pytest.mark.parametrize(
    "text", ["", "1,x", "1,,2", "0,3", "-1,3", "1x3", "99999999,99999999,9999", "9" * 30]
)
def test_a_text_that_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        zeros([text])
    assert str(caught.value) == (
        f"{text!r} is no shape of an input\n"
        "  fix: write whole numbers from 1, with commas: 1,3,224,224"
    )


def test_a_kind_and_a_function_name_a_source_and_a_path_does_not() -> None:
    assert names_source("digits")
    assert names_source("my.data:batches")
    assert not names_source("data/digits")
    assert not names_source("digits.npz")
