"""Dose-response: exact null distributions against brute force and scipy."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats

from arrcoc_verify.errors import NonFinite, UsageError
from arrcoc_verify.stats.trend import dose_response, within_unit_scores


def score(row) -> int:
    return sum(
        int(np.sign(row[j] - row[i])) for i in range(len(row)) for j in range(i + 1, len(row))
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=2))
def test_exact_p_with_ties_equals_brute_force(rows: list[list[int]]) -> None:
    null = [
        sum(map(score, orders)) for orders in product(*(list(permutations(row)) for row in rows))
    ]
    seen = sum(map(score, rows))
    assert dose_response(rows).p == pytest.approx(np.mean(np.array(null) >= seen))
    assert dose_response(rows, "decreasing").p == pytest.approx(np.mean(np.array(null) <= seen))


@pytest.mark.parametrize("seed", range(4))
def test_one_unit_equals_scipys_exact_kendall(seed: int) -> None:
    y = np.random.default_rng(seed).permutation(9)
    expected = stats.kendalltau(np.arange(9), y, alternative="greater", method="exact")
    found = dose_response(y[None])
    assert found.p == pytest.approx(expected.pvalue)
    assert found.tau == pytest.approx(expected.statistic)


def test_perfect_order_in_every_unit_has_the_closed_form() -> None:
    found = dose_response(np.tile(np.arange(4.0), (6, 1)))
    assert found.p == pytest.approx(math.factorial(4) ** -6)
    assert (36, 1.0, 6) == (found.score, found.tau, found.n)


def test_flat_responses_show_nothing() -> None:
    found = dose_response(np.ones((10, 5)))
    assert (1.0, 0, 0.0) == (found.p, found.score, found.tau)


def test_levels_of_units_do_not_matter() -> None:
    y = np.random.default_rng(0).normal(size=(5, 4))
    assert dose_response(y).p == dose_response(y + np.arange(5)[:, None] * 100).p


def test_scores_per_unit_are_signed_and_sum_to_the_score() -> None:
    y = [[1, 2, 3], [3, 2, 1], [1, 1, 2]]
    assert [3.0, -3.0, 2.0] == within_unit_scores(y).tolist()
    assert 2 == dose_response(y).score


def test_many_units_and_doses_keep_a_proper_distribution() -> None:
    y = np.random.default_rng(1).normal(size=(40, 12))
    up, down = dose_response(y).p, dose_response(y, "decreasing").p
    assert 1.0 < up + down < 1.05


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="doses"):
        dose_response([1.0, 2.0])
    with pytest.raises(NonFinite):
        dose_response([[1.0, math.nan]])
    with pytest.raises((UsageError, TypeCheckError), match="up"):
        dose_response([[1.0, 2.0]], "up")


def test_the_least_tables_that_can_be_tested() -> None:
    assert dose_response([[1.0, 2.0]]).p == 0.5
    for shape in ((0, 3), (3, 1), (2, 2, 2)):
        with pytest.raises(UsageError, match="doses"):
            dose_response(np.ones(shape))
