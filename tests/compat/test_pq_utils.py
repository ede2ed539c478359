"""reduce_amax against numpy; the logger."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.compat.pytorch_quantization import utils
from qdq.compat.pytorch_quantization.utils import quant_logging

X = torch.randn(3, 4, 1, 5, generator=torch.Generator().manual_seed(0)) - 0.1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 3), min_size=1), st.booleans(), st.booleans(), st.booleans())
def test_it_is_numpys_maximum_of_magnitudes(
    axes: set[int], keepdims: bool, negative: bool, as_list: bool
) -> None:
    axis = tuple(each - 4 * negative for each in axes)
    found = utils.reduce_amax(X, list(axis) if as_list else axis, keepdims)
    expected = np.abs(X.numpy()).max(axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(
        found.numpy(), expected.reshape(() if expected.size == 1 else expected.shape)
    )


def test_no_axis_and_a_single_number_give_a_scalar() -> None:
    expected = np.abs(X.numpy()).max()
    for found in (
        utils.reduce_amax(X),
        utils.reduce_amax(X, (0, 1, 2, 3)),
        utils.reduce_amax(X[:1, :1, :, :1], [1, 3]),
    ):
        assert found.shape == ()
    assert utils.reduce_amax(X).item() == expected


def test_an_int_axis_keeps_its_shape() -> None:
    assert utils.reduce_amax(X, 1).shape == (3, 1, 1, 5)
    assert utils.reduce_amax(X, -1, keepdims=False).shape == (3, 4, 1)
    assert utils.reduce_amax(torch.ones(1, 3), 1).shape == (1, 1)


def test_integers_stay_integers_and_nan_is_the_largest() -> None:
    assert utils.reduce_amax(torch.tensor([3, -7])).item() == 7
    assert bool(utils.reduce_amax(torch.tensor([1.0, float("nan"), float("inf")])).isnan())


def test_no_gradient_is_kept() -> None:
    assert not utils.reduce_amax(X.clone().requires_grad_()).requires_grad


def test_more_axes_than_there_are_is_an_error() -> None:
    message = (
        r"^Cannot reduce more axes than the tensor has: axis=\(0, 1, 2, 3, 4\) of 4 dimensions"
    )
    with pytest.raises(ValueError, match=message):
        utils.reduce_amax(X, (0, 1, 2, 3, 4))


def test_resetting_handlers_touches_this_logger_only() -> None:
    own, roots = logging.NullHandler(), list(logging.getLogger().handlers)
    quant_logging.logger.addHandler(own)
    quant_logging.reset_logger_handler()
    quant_logging.reset_logger_handler()
    assert own not in quant_logging.logger.handlers
    assert logging.getLogger().handlers == roots


def test_importing_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging; import qdq.compat.pytorch_quantization.calib;"
        "assert not logging.getLogger().handlers;"
        "assert not logging.getLogger('pytorch_quantization').handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
