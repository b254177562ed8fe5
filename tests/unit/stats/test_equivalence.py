"""Equivalence: TOST against statsmodels, distances bounded from above."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.equivalence import (
    bounded_distance,
    log_readings,
    n_for_quantile,
    quantile_interval,
    tost,
)
from arrcoc_verify.stats.flips import smallest_p
from arrcoc_verify.stats.interval import mean_interval
from arrcoc_verify.stats.permutation import sign_flip
from arrcoc_verify.stats.tails import MeanTails

REFUSED = (UsageError, TypeCheckError)
"""Ours for users; in tests the check of annotations may come first."""

NOISE = np.random.default_rng(0).normal(size=24)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.9, 2.0])
def test_tost_equals_statsmodels(shift: float) -> None:
    expected = DescrStatsW(NOISE + shift).ttost_mean(-0.8, 0.8)[0]
    assert tost(NOISE + shift, (-0.8, 0.8)).p_inside == pytest.approx(expected)


def test_tost_at_alpha_is_the_interval_of_1_minus_2_alpha_inside() -> None:
    for margin in np.linspace(0.1, 1.0, 40):
        found = tost(NOISE, (-margin, margin), level=0.9)
        inside = -margin < found.interval.low and found.interval.high < margin
        assert inside == (found.p_inside < 0.05)


def test_not_significant_is_not_equivalent() -> None:
    wide = np.random.default_rng(1).normal(0.0, 10.0, 12)
    assert tost(wide, (-1.0, 1.0)).p_inside > 0.3


def test_bootstrap_t_agrees_with_t_on_normal_effects() -> None:
    a, b = (tost(NOISE, (-0.6, 0.6), method) for method in ("t", "bootstrap-t"))
    assert a.p_inside == pytest.approx(b.p_inside, abs=0.02)
    assert a.p_outside == pytest.approx(b.p_outside, abs=0.05)


def test_equal_effects_give_the_least_p_and_never_zero() -> None:
    found = tost([0.1] * 10, (-1.0, 1.0))
    assert smallest_p(10) == found.p_inside
    assert 1.0 == found.p_outside
    assert 1.0 == tost([1.0] * 10, (-1.0, 1.0)).p_inside
    assert 2 * smallest_p(10) == tost([3.0] * 10, (-1.0, 1.0)).p_outside


def test_tost_refuses_bad_input() -> None:
    with pytest.raises(UsageError, match="low < high"):
        tost(NOISE, (1.0, -1.0))
    with pytest.raises(REFUSED, match="method"):
        tost(NOISE, (-1.0, 1.0), "z")
    with pytest.raises(TooFewUnits):
        tost(NOISE[:7], (-1.0, 1.0))
    with pytest.raises(NonFinite):
        tost([*NOISE, math.nan], (-1.0, 1.0))


def test_small_distances_are_inside_and_large_ones_outside() -> None:
    d = np.abs(NOISE)
    small, large = bounded_distance(d, 5.0), bounded_distance(d, 0.1)
    assert small.p_inside < 0.001 < 0.99 < small.p_outside
    assert large.p_outside < 0.001 < 0.99 < large.p_inside
    assert small.rms.value == pytest.approx(math.sqrt(np.mean(d**2)))
    assert small.rms.low < small.rms.value < small.rms.high


def test_signs_cannot_cancel() -> None:
    signed = np.tile([3.0, -3.0], 10) + NOISE[:20] * 1e-3
    assert tost(signed, (-1.0, 1.0), "t").interval.value == pytest.approx(0.0, abs=0.01)
    assert bounded_distance(np.abs(signed), 1.0).p_inside > 0.99


def test_a_rare_large_distance_is_not_averaged_away() -> None:
    d = np.array([0.01] * 37 + [1.5] * 3)
    found = bounded_distance(d, 1.0)
    assert found.rms.value < 1.0
    assert 1.0 == found.p_inside


def test_exact_rule_counts_excesses_like_a_binomial() -> None:
    d = np.full(100, 0.1)
    d[:2] = 1.0
    found = bounded_distance(d, 0.9, quantile_rule="exact")
    expected = sum(math.comb(100, k) * 0.05**k * 0.95 ** (100 - k) for k in range(3))
    assert found.p_inside == pytest.approx(expected)
    assert [59, 90] == [n_for_quantile(0.05), n_for_quantile(0.01)]


def test_log_readings_are_coxs_estimate_and_its_t_test() -> None:
    d = np.random.default_rng(1).lognormal(0.5, 0.5, 30)
    y, s2 = np.log(d / 4.0), np.var(np.log(d), ddof=1)
    readings = log_readings(d, 4.0)
    assert readings.mean() == pytest.approx(y.mean() + s2)
    assert readings.var(ddof=1) == pytest.approx(s2 * (1 + 2 * s2))
    many = np.random.default_rng(0).lognormal(0.0, 0.7, 400_000)
    assert log_readings(many, 1.0).mean() == pytest.approx(0.49, abs=0.01)


def test_no_distance_at_all_gives_the_least_p() -> None:
    found = bounded_distance([0.0] * 12, 0.5)
    assert (smallest_p(12), 1.0) == (found.p_inside, found.p_outside)
    assert (0.0, 0.0) == (found.rms.value, found.rms.high)


def test_distances_equal_to_the_margin_are_not_inside() -> None:
    assert 1.0 == bounded_distance([0.5] * 12, 0.5).p_inside


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 2), min_size=8, max_size=12), st.floats(0.1, 2), st.floats(1, 3))
def test_a_wider_margin_never_makes_it_harder(d: list[float], margin: float, more: float) -> None:
    assert (
        bounded_distance(d, margin * more).p_inside <= bounded_distance(d, margin).p_inside + 1e-9
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 2), min_size=8, max_size=12), st.floats(0.1, 2))
def test_inside_and_outside_never_both_reject(d: list[float], margin: float) -> None:
    found = bounded_distance(d, margin)
    assert max(found.p_inside, found.p_outside) > 0.25


def test_quantile_intervals_say_when_n_cannot_bound_them() -> None:
    x = np.arange(1.0, 201.0)
    found = quantile_interval(x, 0.95, 0.95)
    assert (190.0, 184.0, 197.0) == (found.value, found.low, found.high)
    assert math.inf == quantile_interval(x[:30], 0.95, 0.95).high


def test_quantile_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = quantile_interval(rng.random(120), 0.95, 0.9)
        hits += found.low <= 0.95 <= found.high
    assert hits / 400 > 0.87


@pytest.mark.parametrize(
    ("d", "margin", "error"),
    [
        ([1.0] * 7, 1.0, TooFewUnits),
        ([1.0] * 7 + [math.nan], 1.0, NonFinite),
        ([1.0] * 7 + [-0.1], 1.0, UsageError),
        ([1.0] * 8, 0.0, UsageError),
        ([1.0] * 8, math.nan, UsageError),
        ([1.0] * 8, math.inf, UsageError),
    ],
)
def test_bad_distances_and_margins_are_refused(d, margin: float, error) -> None:
    with pytest.raises(error):
        bounded_distance(d, margin)
    with pytest.raises(REFUSED, match="quantile_rule"):
        bounded_distance([1.0] * 8, 1.0, quantile_rule="none")


def test_margins_without_room_are_refused() -> None:
    with pytest.raises(UsageError, match="low < high"):
        tost(NOISE, (1.0, 1.0))


def test_what_is_left_out_is_said_in_the_signature() -> None:
    usual = {"level": 0.9, "alpha": 0.01, "seed": 0}
    plain = tost(NOISE, (-0.6, 0.6), "bootstrap-t")
    assert plain == tost(NOISE, (-0.6, 0.6), "bootstrap-t", **usual)
    assert plain != tost(NOISE, (-0.6, 0.6), "bootstrap-t", **{**usual, "seed": 1})
    usual = {"level": 0.95, "alpha": 0.01, "seed": 0}
    near = bounded_distance(np.abs(NOISE), 1.3)
    assert near == bounded_distance(np.abs(NOISE), 1.3, **usual)
    assert near != bounded_distance(np.abs(NOISE), 1.3, **{**usual, "seed": 1})


def test_both_sides_count_for_inside_and_the_nearer_one_for_outside() -> None:
    tails = MeanTails(NOISE, "t", 0.01, 0)
    found = tost(NOISE, (-0.5, 0.3))
    assert found.p_inside == max(tails.p_below(0.3), tails.p_above(-0.5))
    far = tost(NOISE + 1.0, (-0.5, 0.3))
    tails = MeanTails(NOISE + 1.0, "t", 0.01, 0)
    assert far.p_outside == 2.0 * min(tails.p_above(0.3), tails.p_below(-0.5)) < 0.01


def test_a_quantile_interval_ends_where_n_can_no_longer_bound_it() -> None:
    x = np.arange(1.0, 9.0)
    bounded, unbounded = quantile_interval(x, 0.5, 0.95), quantile_interval(x, 0.5, 0.999)
    assert (bounded.low, bounded.value, bounded.high) == (1.0, 4.0, 8.0)
    assert (unbounded.low, unbounded.high) == (-math.inf, math.inf)


def test_readings_near_zero_count_as_a_tenth_of_the_margin() -> None:
    assert log_readings(np.array([0.0, 0.1, 0.2]), 2.0) == pytest.approx([math.log(0.1)] * 3)


def test_inside_is_the_largest_of_three_p_and_outside_twice_the_less_of_two() -> None:
    d = np.random.default_rng(4).lognormal(-0.8, 0.6, 40)
    squares = np.square(d / 1.5)
    tails = MeanTails(squares, "bootstrap-t", 0.01, 0)
    logs = MeanTails(log_readings(d, 1.5), "t", 0.01, 0).p_below(0.0)
    parts = [tails.p_below(1.0), sign_flip(squares, 1.0, "less").p, logs]
    assert bounded_distance(d, 1.5).p_inside == max(parts) < 0.05
    squares = np.square(d / 0.4)
    tails = MeanTails(squares, "bootstrap-t", 0.01, 0)
    above = max(tails.p_above(1.0), sign_flip(squares, 1.0, "greater").p)
    beyond = stats.binom.sf(np.count_nonzero(d > 0.4) - 1, 40, 0.05)
    assert bounded_distance(d, 0.4).p_outside == 2.0 * min(above, beyond) < 0.05


def test_a_root_mean_square_beyond_the_margin_is_not_inside_for_few_large_distances() -> None:
    d = np.array([0.01] * 38 + [5.5] * 2)  # the 95th percentile is inside
    assert bounded_distance(d, 1.0).p_inside > 0.5


def test_distances_at_the_margin_are_excesses_but_not_beyond_it() -> None:
    d = np.array([0.1] * 93 + [1.0] * 3 + [1.2] * 4)
    found = bounded_distance(d, 1.0, quantile_rule="exact")
    assert found.p_inside == pytest.approx(stats.binom.cdf(7, 100, 0.05))
    many = np.array([0.1] * 12 + [1.0] * 3 + [1.05] * 5)  # root mean square is inside
    assert bounded_distance(many, 1.0).p_outside == pytest.approx(2.0 * stats.binom.sf(4, 20, 0.05))


def test_the_observed_percentile_allows_one_excess_in_twenty() -> None:
    one, two = np.array([0.1] * 19 + [1.5]), np.array([0.1] * 18 + [1.5] * 2)
    assert bounded_distance(one, 1.0).p_inside < 1.0
    assert bounded_distance(two, 1.0).p_inside == 1.0


def test_the_interval_of_the_root_mean_square_is_that_of_squares_on_the_distances_scale() -> None:
    d = np.abs(NOISE)
    found, square = bounded_distance(d, 0.8).rms, mean_interval(np.square(d / 0.8), 0.95, 0)
    ends = [0.8 * math.sqrt(end) for end in (square.value, square.low, square.high)]
    assert [found.value, found.low, found.high] == ends


def test_the_t_test_of_logs_decides_where_it_is_the_strictest() -> None:
    d = np.random.default_rng(2).lognormal(-1.0, 0.9, 22)
    logs = MeanTails(log_readings(d, 1.4), "t", 0.01, 0).p_below(0.0)
    tails = MeanTails(np.square(d / 1.4), "bootstrap-t", 0.01, 0).p_below(1.0)
    assert tails < logs == bounded_distance(d, 1.4).p_inside


def test_outside_asks_both_tests_of_the_mean() -> None:
    d = np.concatenate([np.full(59, 0.999), 1.3 + 0.01 * np.arange(5)])
    flips = sign_flip(np.square(d), 1.0, "greater").p
    assert MeanTails(np.square(d), "bootstrap-t", 0.01, 0).p_above(1.0) < flips
    assert bounded_distance(d, 1.0).p_outside == 2.0 * flips


def test_larger_distances_have_larger_log_readings() -> None:
    assert np.all(np.diff(log_readings(np.array([0.5, 1.0, 2.0, 4.0]), 1.0)) > 0)
