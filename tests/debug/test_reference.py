"""Fits with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.debug.reference import Ridge, Rising, matched, resamples

numbers = st.lists(st.floats(-10, 10), min_size=2, max_size=20)


def test_a_line_is_recovered():
    x = np.random.default_rng(0).normal(size=(400, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + 3

    assert np.abs(Ridge.fit(x, y)(x) - y).max() < 0.05 * np.ptp(y)


def test_a_column_without_spread_does_no_harm():
    x = np.stack([np.ones(20), np.arange(20.0)], 1)

    assert np.isfinite(Ridge.fit(x, np.arange(20.0))(x)).all()


@given(numbers, numbers)
def test_a_rising_fit_never_falls(xs, ys):
    count = min(len(xs), len(ys))
    fit = Rising.fit(np.array(xs[:count]), np.array(ys[:count]))

    assert (np.diff(fit(np.linspace(-12, 12, 50))) >= -1e-12).all()


def test_a_rising_fit_of_rising_data_is_the_data():
    x = np.array([3.0, 1.0, 2.0])

    assert [30.0, 10.0, 20.0] == Rising.fit(x, x * 10)(x).tolist()


@given(numbers)
def test_values_matched_with_themselves_keep_their_order(values):
    array = np.array(values)
    made = matched(array, array)

    assert (np.diff(made[np.argsort(array, kind="stable")]) >= 0).all()
    assert array.min() <= made.min() <= made.max() <= array.max()


def test_matched_values_have_the_wanted_distribution_in_their_own_order():
    made = matched(np.array([5.0, 1.0, 3.0]), np.array([10.0, 20.0, 30.0]))

    assert made == pytest.approx([10 + 5 / 6 * 20, 10 + 1 / 6 * 20, 20])


def test_resamples_keep_clusters_together_and_the_first_is_the_sample():
    lists = resamples(["a", "a", "b", "c"], np.array([True, True, False, True]), 10, seed=0)

    assert [0, 1, 3] == lists[0].tolist()
    assert all((0 in one) == (1 in one) and 2 not in one for one in lists)
