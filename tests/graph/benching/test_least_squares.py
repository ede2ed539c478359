"""Least squares with no variable below zero, against the conditions of its optimum."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qdq.graph.benching.least_squares import nonnegative_least_squares


@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 10_000))
def test_the_residual_pulls_no_variable_up_and_no_free_one_at_all(
    rows: int, columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    x = nonnegative_least_squares(a, b)
    pull = a.T @ (b - a @ x)
    assert (x >= 0).all()
    assert (pull <= 1e-8).all()
    assert np.allclose(pull[x > 0], 0, atol=1e-8)


def test_a_solution_without_negatives_is_found_whatever_the_units() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(30, 6)) * 10.0 ** np.arange(-6, 6, 2)
    x = np.array([0.0, 3.0, 0.0, 5.0, 1.0, 2.0]) / 10.0 ** np.arange(-6, 6, 2)
    assert np.allclose(nonnegative_least_squares(a, a @ x), x, rtol=1e-6)


def test_a_column_of_zeros_gets_none() -> None:
    a = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert nonnegative_least_squares(a, np.array([1.0, 2.0])).tolist() == [1.0, 0.0]
