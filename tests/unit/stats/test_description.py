"""Small readings: closed forms and ties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arrcoc_verify.errors import NonFinite, UsageError
from arrcoc_verify.stats.description import (
    gini,
    morans_i,
    position_r2,
    spearman,
    tie_fair_ranks,
    top_fraction,
)


def test_ranks_share_ties_and_start_at_the_largest() -> None:
    assert [4.0, 1.5, 1.5, 3.0] == tie_fair_ranks([1, 9, 9, 4]).tolist()
    assert [2.0, 2.0, 2.0] == tie_fair_ranks([7, 7, 7]).tolist()


def test_the_most_token_patch_counts_fractionally_under_ties() -> None:
    assert 1.0 == top_fraction([1, 400, 2], [False, True, False])
    assert 0.5 == top_fraction([400, 400, 2], [False, True, False])
    assert 0.25 == top_fraction(np.full(8, 9.0), np.arange(8) < 2)
    assert 0.25 == top_fraction([9, 5, 5, 1], [False, True, False, False], k=2)
    assert 1.0 == top_fraction([9, 5, 5, 1], [True, True, True, False], k=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.data())
def test_top_fractions_of_a_partition_sum_to_one(x: list[int], data) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x))))
    k = data.draw(st.integers(1, len(x)))
    assert top_fraction(x, mask, k) + top_fraction(x, ~mask, k) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("x", "expected"), [([1, 1, 1], 0.0), ([0, 0, 0, 1], 0.75), ([1, 2, 3, 4], 0.25), ([5], 0.0)]
)
def test_gini_has_its_closed_forms(x, expected: float) -> None:
    assert gini(x) == pytest.approx(expected)
    assert gini(np.array(x) * 64) == pytest.approx(expected)


def test_gini_of_nothing_is_undefined_and_of_debts_refused() -> None:
    assert math.isnan(gini([0, 0]))
    with pytest.raises(UsageError):
        gini([1, -1])


def test_morans_i_of_a_chequerboard_is_minus_one_and_of_halves_has_its_closed_form() -> None:
    board = np.indices((6, 8)).sum(axis=0) % 2
    assert morans_i(board) == pytest.approx(-1.0)
    halves = np.repeat([[0.0], [1.0]], 3, axis=0) * np.ones((6, 4))
    links, cut = 5 * 4 + 6 * 3, 4
    assert morans_i(halves) == pytest.approx((links - 2 * cut) / links)
    assert morans_i(halves * 9 - 4) == pytest.approx(morans_i(halves))


def test_morans_i_averages_minus_one_over_n_minus_one_under_random_placement() -> None:
    rng = np.random.default_rng(0)
    cells = rng.exponential(size=12)
    found = [morans_i(rng.permutation(cells).reshape(3, 4)) for _ in range(3_000)]
    assert np.mean(found) == pytest.approx(-1 / 11, abs=0.015)


def test_morans_i_of_a_constant_map_is_undefined_and_a_row_is_a_map() -> None:
    assert math.isnan(morans_i(np.ones((3, 3))))
    assert morans_i([[0.0, 1.0, 0.0, 1.0]]) == pytest.approx(-1.0)
    with pytest.raises(UsageError):
        morans_i([1.0, 2.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_spearman_equals_scipy_with_ties(pairs) -> None:
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(spearman(x, y))
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_spearman_of_a_monotone_map_is_exactly_one() -> None:
    x = np.arange(10.0)
    assert 1.0 == spearman(x, np.exp(x))
    assert -1.0 == spearman(x, -x)
    with pytest.raises(UsageError, match="lengths"):
        spearman(x, x[:5])


def test_maps_that_are_one_function_of_place_are_predicted_by_place() -> None:
    r, c = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 7), indexing="ij")
    maps = [level + 3 * r - c**2 + r * c for level in (0.0, 5.0, 9.0)]
    assert position_r2(maps) > 0.9999
    assert position_r2([np.hypot(r, c)] * 3) > 0.99


def test_maps_that_follow_their_own_content_are_not() -> None:
    maps = np.random.default_rng(0).normal(size=(30, 8, 8))
    assert -0.2 < position_r2(maps) < 0.05


def test_place_learnt_on_others_that_misleads_is_below_zero() -> None:
    ramp = np.tile(np.arange(8.0), (8, 1))
    assert position_r2([ramp, -ramp]) == pytest.approx(-3.0, abs=0.05)


def test_grids_of_several_sizes_share_one_function_of_place() -> None:
    def ramp(h: int, w: int) -> np.ndarray:
        return np.tile((np.arange(w) + 0.5) / w, (h, 1))

    assert position_r2([ramp(4, 6), ramp(8, 8), ramp(5, 12)], ridge=0.0) == pytest.approx(1.0)


def test_constant_maps_are_undefined_and_bad_ones_refused() -> None:
    assert math.isnan(position_r2(np.ones((3, 4, 4))))
    with pytest.raises(UsageError, match="two or more"):
        position_r2([np.ones((4, 4))])
    with pytest.raises(NonFinite, match="map 1"):
        position_r2([np.ones((2, 2)), np.full((2, 2), math.nan)])
    with pytest.raises(NonFinite):
        gini([1.0, math.inf])
