"""Samples: what is accepted, and units averaged inside clusters."""

import math

import numpy as np
import pytest

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.sample import (
    MIN_UNITS,
    average_clusters,
    check_fraction,
    check_number,
    finite_units,
    same_value,
)


def test_clusters_are_averaged_in_the_order_in_which_they_first_appear() -> None:
    found = average_clusters([1.0, 10.0, 3.0, 20.0, 7.0], ["b", "a", "b", "a", "c"])
    assert [2.0, 15.0, 7.0] == found.tolist()


def test_a_cluster_counts_once_however_many_units_it_has() -> None:
    assert [1.0, 5.0] == average_clusters([1.0] * 99 + [5.0], [0] * 99 + [1]).tolist()


def test_a_nan_is_refused_before_a_mean_hides_where_it_was() -> None:
    with pytest.raises(NonFinite, match=r"\(2,\)"):
        average_clusters([1.0, 2.0, math.nan], "aab")


def test_labels_and_values_must_match() -> None:
    with pytest.raises(UsageError, match="2 values came with 3"):
        average_clusters([1.0, 2.0], "abc")


def test_values_equal_up_to_rounding_count_as_equal() -> None:
    assert same_value(np.array([0.1 + 0.2, 0.3]))
    assert not same_value(np.array([0.3, 0.3 + 1e-12]))


def test_eight_units_are_the_fewest_for_a_verdict() -> None:
    assert MIN_UNITS == 8
    assert finite_units([1.0]).tolist() == [1.0]
    assert finite_units([1.0, 2.0], least=2).tolist() == [1.0, 2.0]
    with pytest.raises(TooFewUnits):
        finite_units([])
    with pytest.raises(TooFewUnits):
        finite_units([1.0], least=2)
    with pytest.raises(UsageError, match="shape"):
        finite_units([[1.0]])


def test_the_first_five_bad_places_are_named() -> None:
    with pytest.raises(
        NonFinite, match=r"6 of 7 .* first at \(0,\), \(1,\), \(2,\), \(3,\), \(4,\);"
    ):
        finite_units([math.nan] * 6 + [1.0])


def test_fractions_lie_strictly_inside_and_numbers_are_finite() -> None:
    assert check_fraction(0.5, "x") == 0.5
    for value in (0.0, 1.0, -0.5, 1.5, math.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            check_fraction(value, "x")
    assert check_number(-3.0, "x") == -3.0
    for value in (math.inf, math.nan):
        with pytest.raises(UsageError, match="finite"):
            check_number(value, "x")


def test_equal_means_equal_up_to_four_roundings_at_any_scale() -> None:
    eps = float(np.finfo(np.float64).eps)
    assert same_value(np.zeros(3))
    for scale in (2.0**-60, 1.0, 2.0**60):
        assert same_value(np.array([1.0, 1.0 + 4 * eps]) * scale)
        assert not same_value(np.array([1.0, 1.0 + 6 * eps]) * scale)
    assert not same_value(np.array([1.0, 1.0 + 5 * eps]))


def test_no_units_are_no_clusters() -> None:
    assert average_clusters([], []).tolist() == []
