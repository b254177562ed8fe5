"""Samples: what is accepted, and units averaged inside clusters."""

import math

import numpy as np
import pytest

from arrcoc_verify.errors import NonFinite, UsageError
from arrcoc_verify.stats.sample import average_clusters, same_value


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
