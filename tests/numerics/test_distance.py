"""Distances between outputs, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from qdq.numerics.distance import agreement, sqnr


@pytest.mark.parametrize(("noise", "decibel"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (10, -20)])
def test_ten_times_less_noise_is_twenty_decibel_more(noise: float, decibel: float) -> None:
    reference = np.ones((3, 4))
    other = (reference + noise).astype(np.float64)
    assert sqnr(reference, other) == pytest.approx(decibel)  # type: ignore[arg-type]


def test_the_ratio_is_over_all_positions_together() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    other = np.array([[3.0, 4.0], [0.0, 0.5]], np.float32)
    assert sqnr(reference, other) == pytest.approx(10 * math.log10(25 / 0.25))


def test_equal_outputs_have_infinite_and_a_zero_reference_minus_infinite_sqnr() -> None:
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert sqnr(ones, ones) == math.inf
    assert sqnr(zeros, zeros) == math.inf
    assert sqnr(zeros, ones) == -math.inf


def test_large_values_do_not_overflow_nor_small_noise_vanish() -> None:
    huge = np.full(4, 3e38, np.float32)
    assert sqnr(huge, -huge) == pytest.approx(10 * math.log10(1 / 4))
    ones = np.ones(4, np.float32)
    near = np.nextafter(ones, np.float32(2))
    assert sqnr(ones, near) == pytest.approx(20 * math.log10(2**23))


def test_agreement_is_the_share_of_equal_winners() -> None:
    reference = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2], [2, 1, 0]], np.float32)
    other = np.array([[0, 0, 9], [0, 1, 0], [0, 1, 0], [5, 4, 4]], np.float32)
    assert agreement(reference, other) == 0.75
    assert agreement(reference, reference) == 1.0


def test_classes_lie_on_axis_1_also_for_maps() -> None:
    reference = np.zeros((1, 3, 2, 2), np.float32)
    reference[0, 1] = 1
    other = reference.copy()
    other[0, 2, 0, 0] = 2
    assert agreement(reference, other) == 0.75
