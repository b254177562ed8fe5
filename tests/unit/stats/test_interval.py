"""Intervals: textbook numbers, ties, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.interval import (
    bootstrap_t_values,
    mean_interval,
    n_resamples_for,
    proportion_interval,
)

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Extra hours of sleep, paired (Cushny & Peebles 1905, in Student 1908)."""


def test_t_interval_of_students_sleep_data_is_the_textbook_one() -> None:
    found = mean_interval(SLEEP, 0.95, method="t", unit="hours")
    assert (1.58, 0.70, 2.46) == (round(found.value, 2), round(found.low, 2), round(found.high, 2))
    assert ("t", "hours", 10) == (found.method, found.unit, found.n)


def test_bootstrap_t_leans_towards_the_long_tail() -> None:
    found = mean_interval(SLEEP, 0.95, seed=1)
    assert found.method == "bootstrap-t"
    assert found.low < found.value < found.high
    assert found.high - found.value > found.value - found.low


def test_auto_takes_bca_from_fifty_units_on() -> None:
    x = np.random.default_rng(0).exponential(size=50)
    assert "bootstrap-t" == mean_interval(x[:49]).method
    assert "bca" == mean_interval(x).method


@pytest.mark.parametrize("method", ["bootstrap-t", "bca", "t"])
def test_methods_agree_on_large_normal_samples(method: str) -> None:
    x = np.random.default_rng(3).normal(2.0, 1.0, 200)
    found, exact = (
        mean_interval(x, 0.9, 0, method),
        stats.t.interval(0.9, 199, x.mean(), stats.sem(x)),
    )
    assert found.low == pytest.approx(exact[0], abs=0.02)
    assert found.high == pytest.approx(exact[1], abs=0.02)


def test_higher_levels_give_wider_intervals() -> None:
    widths = [
        (f := mean_interval(SLEEP, level)).high - f.low for level in (0.5, 0.8, 0.95, 0.99, 0.9996)
    ]
    assert sorted(widths) == widths


def test_resamples_grow_with_the_level() -> None:
    assert 4_999 == n_resamples_for(0.95)
    assert 19_999 == n_resamples_for(0.99)
    assert 200_000 == n_resamples_for(0.999999)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e9])
def test_equal_values_give_a_degenerate_interval_that_says_so(value: float) -> None:
    found = mean_interval([value] * 8)
    assert (value, value, value) == (found.value, found.low, found.high)
    assert found.method.startswith("degenerate")


def test_one_unit_that_differs_still_gives_a_finite_interval_around_the_mean() -> None:
    found = mean_interval([10.0] * 15 + [12.0])
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)
    assert found.low < found.value < found.high


def test_one_differing_unit_among_many_does_not_break_bca() -> None:
    found = mean_interval([0.0] * 63 + [1.0])
    assert math.isfinite(found.low + found.high)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(bad: float) -> None:
    with pytest.raises(NonFinite, match=r"1 of 10 .*\(3,\)"):
        mean_interval([*SLEEP[:3], bad, *SLEEP[4:]])


def test_fewer_than_eight_units_are_refused_with_what_is_needed() -> None:
    with pytest.raises(TooFewUnits, match="7 units came, at least 8 are needed"):
        mean_interval(SLEEP[:7])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, math.nan])
def test_levels_outside_0_to_1_are_refused(level: float) -> None:
    with pytest.raises(UsageError, match="level"):
        mean_interval(SLEEP, level)


def test_unknown_methods_and_shapes_are_refused() -> None:
    with pytest.raises((UsageError, TypeCheckError), match="percentile"):
        mean_interval(SLEEP, method="percentile")
    with pytest.raises(UsageError, match="one number per unit"):
        mean_interval(np.zeros((8, 2)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=8, max_size=20), st.floats(-100, 100))
def test_intervals_contain_the_mean_and_move_with_the_data(x: list[int], shift: float) -> None:
    here = mean_interval(np.array(x, dtype=float), 0.9)
    there = mean_interval(np.array(x, dtype=float) + shift, 0.9)
    assert here.low <= here.value <= here.high
    assert there.low == pytest.approx(here.low + shift, abs=1e-6)
    assert there.high == pytest.approx(here.high + shift, abs=1e-6)


def test_same_seed_same_interval_and_the_global_generator_is_untouched() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert mean_interval(SLEEP, seed=5) == mean_interval(SLEEP, seed=5)
    assert mean_interval(SLEEP, seed=5) != mean_interval(SLEEP, seed=6)
    assert before == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_bootstrap_t_of_normal_data_is_close_to_students_t() -> None:
    x = np.random.default_rng(0).normal(size=400)
    values = bootstrap_t_values(x, 20_000, 0)
    assert np.quantile(values, [0.05, 0.95]) == pytest.approx([-1.65, 1.65], abs=0.08)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0), (4, 20, 0.0573, 0.4366)],
)
def test_clopper_pearson_gives_the_tabulated_limits(
    successes: int, n: int, low: float, high: float
) -> None:
    found = proportion_interval(successes, n)
    assert (low, high) == (round(found.low, 4), round(found.high, 4))


def test_clopper_pearson_covers_at_least_its_level_for_every_rate() -> None:
    n, level = 12, 0.9
    ends = [(f := proportion_interval(k, n, level)).low for k in range(n + 1)]
    tops = [proportion_interval(k, n, level).high for k in range(n + 1)]
    for rate in np.linspace(0.01, 0.99, 99):
        chances = stats.binom.pmf(np.arange(n + 1), n, rate)
        covered = sum(c for c, a, b in zip(chances, ends, tops, strict=True) if a <= rate <= b)
        assert covered >= level
    assert f.value == 1.0


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(UsageError, match="successes"):
        proportion_interval(successes, n)


def _naive_bootstrap_t(x: np.ndarray, count: int, seed: int) -> list[float]:
    """Write out what the vectorised version does, one resample at a time."""
    drawn = x[np.random.default_rng(seed).integers(x.size, size=(count, x.size))]
    least = 0.25 * x.std(ddof=1)
    return sorted(
        (row.mean() - x.mean()) / (max(row.std(ddof=1), least) / math.sqrt(x.size)) for row in drawn
    )


def test_bootstrap_t_is_the_written_out_one() -> None:
    x = np.random.default_rng(0).exponential(size=12)
    values = bootstrap_t_values(x, 4_999, 7)
    assert values == pytest.approx(_naive_bootstrap_t(x, 4_999, 7))
    assert bootstrap_t_values(x * 1e-160, 4_999, 7) == pytest.approx(values)
    found, error = mean_interval(x, 0.95, 7, "bootstrap-t"), stats.sem(x)
    assert found.low == pytest.approx(x.mean() - values[-125] * error)
    assert found.high == pytest.approx(x.mean() - values[124] * error)
    widest, many = mean_interval(x, 0.999999, 7, "bootstrap-t"), bootstrap_t_values(x, 200_000, 7)
    assert widest.low == pytest.approx(x.mean() - many[-1] * error)


def test_a_resample_without_spread_counts_a_quarter_of_the_samples() -> None:
    values = bootstrap_t_values(np.array([0.0] * 15 + [1.0]), 4_999, 0)
    assert values[0] == pytest.approx(-(1 / 16) * 4.0 / (0.25 * 0.25))


def test_what_is_left_out_is_95_percent_and_seed_0() -> None:
    assert mean_interval(SLEEP) == mean_interval(SLEEP, 0.95, 0, "auto", "")
    assert proportion_interval(4, 20) == proportion_interval(4, 20, 0.95, "fraction")
    assert proportion_interval(4, 20, unit="pairs").unit == "pairs"
    assert proportion_interval(1, 1).low == pytest.approx(0.025)
    assert proportion_interval(4, 20).value == 0.2


def test_the_ends_of_students_interval() -> None:
    x = np.array(SLEEP)
    found, exact = (
        mean_interval(x, 0.9, method="t"), stats.t.interval(0.9, 9, x.mean(), stats.sem(x))
    )  # fmt: skip
    assert (found.low, found.high) == pytest.approx(exact)


@pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning", "ignore::scipy.stats.DegenerateDataWarning"
)
def test_where_bca_is_undefined_auto_takes_t_and_says_so() -> None:
    x = np.random.default_rng(0).exponential(size=60) * 1e-120
    found, exact = mean_interval(x), mean_interval(x, method="t")
    assert found.method.startswith("t (bca is undefined")
    assert (found.low, found.high) == (exact.low, exact.high)
    with pytest.raises(NonFinite, match="bca"):
        mean_interval(x, method="bca")
