"""Power: textbook sample sizes and the spiked control."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.decide import decide_causes
from arrcoc_verify.stats.power import (
    _bootstrap_p,
    _flip_p,
    _n_patterns,
    _patterns,
    _shares,
    _t_power,
    detection_rate,
    least_n,
    n_needed,
)

BASE = np.array([-1.0, 1.0] * 50)
BASE = BASE / BASE.std(ddof=1)


@pytest.mark.parametrize(("effect", "alpha"), [(0.5, 0.05), (0.3, 0.01), (0.8, 0.01), (1.5, 0.05)])
def test_n_needed_equals_statsmodels(effect: float, alpha: float) -> None:
    exact = TTestPower().solve_power(effect, alpha=alpha, power=0.8, alternative="larger")
    assert max(least_n(alpha), math.ceil(exact)) == n_needed(BASE + effect, 0.0, alpha)


def test_n_for_a_medium_effect_is_cohens() -> None:
    assert 27 == n_needed(BASE + 0.5, 0.0, 0.05)


def test_deciding_against_counts_as_deciding() -> None:
    assert n_needed(BASE + 0.5, 0.0) == n_needed(BASE - 0.5, 0.0) == n_needed(BASE, 0.5)


def test_a_mean_on_the_margin_is_never_decided() -> None:
    assert n_needed(BASE, 0.0) is None
    assert n_needed(BASE + 1e-6, 0.0) is None


def test_effects_without_spread_need_what_sign_flips_need() -> None:
    assert 14 == n_needed([3.0] * 8, 1.0, alpha=1e-4) == least_n(1e-4)
    assert 8 == least_n(0.05)
    assert 7 + 83 == least_n(0.01, chance=0.95)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 3), st.floats(1.0, 3))
def test_larger_effects_need_fewer_units(effect: float, more: float) -> None:
    small, large = n_needed(BASE + effect, 0.0), n_needed(BASE + effect * more, 0.0)
    assert large is not None
    assert small is not None
    assert large <= small


def test_n_needed_has_the_power_it_promises() -> None:
    rng = np.random.default_rng(0)
    n = n_needed(BASE * 0.7 + 0.5, 0.0, 0.01)
    assert n is not None
    assert detection_rate(rng.normal(0, 0.7, 4000), 0.5, n, 0.01, 600) == pytest.approx(
        0.8, abs=0.06
    )


def test_no_spike_is_detected_at_the_level_of_the_test() -> None:
    for n in (12, 30):
        assert detection_rate(BASE, 0.0, n, 0.05, 2_000) <= 0.05 + 3 * math.sqrt(0.05 / 2_000)


def test_detection_grows_with_spike_and_n() -> None:
    rates = [detection_rate(BASE, spike, 16, 0.01, 300) for spike in (0.0, 0.5, 1.0, 4.0)]
    assert sorted(rates) == rates
    assert 1.0 == rates[-1]
    assert detection_rate(BASE, 0.5, 64, 0.01, 300) > detection_rate(BASE, 0.5, 16, 0.01, 300)


def test_too_few_units_for_the_level_detect_nothing() -> None:
    assert 0.0 == detection_rate(BASE, 100.0, 6, 0.01)
    assert 1.0 == detection_rate(BASE, 100.0, 7, 0.01)


def test_detection_centres_its_residuals_and_repeats_with_its_seed() -> None:
    a = detection_rate(BASE + 40.0, 0.6, 20, 0.01, 200, seed=3)
    assert a == detection_rate(BASE, 0.6, 20, 0.01, 200, seed=3)


def test_residuals_without_spread_detect_any_spike() -> None:
    assert 1.0 == detection_rate(np.zeros(10), 0.1, 10, 0.01)
    assert 0.0 == detection_rate(np.zeros(10), 0.0, 10, 0.01)


@pytest.mark.parametrize("n", [12, 20])
def test_detection_is_that_of_the_decision_rule(n: int) -> None:
    residuals = np.random.default_rng(0).exponential(size=40)
    rng = np.random.default_rng(1)
    centred = (residuals - residuals.mean()) * math.sqrt(40 / 39)
    held = sum(
        decide_causes(0.8 - rng.choice(centred, n), margin=0.0).p_hold < 0.01 for _ in range(400)
    )
    assert detection_rate(-residuals, 0.8, n, 0.01, 1_000) == pytest.approx(held / 400, abs=0.08)


def test_bad_input_is_refused() -> None:
    with pytest.raises(NonFinite):
        n_needed([1.0, math.nan], 0.0)
    with pytest.raises(NonFinite):
        detection_rate([1.0, math.nan], 1.0, 8)
    with pytest.raises(TooFewUnits):
        n_needed([1.0], 0.0)
    with pytest.raises(UsageError):
        detection_rate(BASE, math.nan, 8)
    with pytest.raises(UsageError):
        detection_rate(BASE, 1.0, 0)
    with pytest.raises(UsageError):
        n_needed(BASE, 0.0, alpha=0.0)


def test_least_n_at_a_level_that_n_reaches_exactly() -> None:
    assert [least_n(2.0**-n) for n in (8, 10, 13)] == [8, 10, 13]


def test_few_and_odd_effects_are_planned_for() -> None:
    assert n_needed([1.0, 2.0], 0.0) == n_needed([1.0, 2.0], 0.0, 0.01, 0.8)
    assert n_needed([0.0, 2.0] * 4, 0.0) is not None  # a mean of 1
    assert n_needed([0.0, 1.0, 2.0], 0.9) > 100  # a spread of 1


def test_patterns_put_fifty_beyond_the_level_between_bounds() -> None:
    assert [_n_patterns(alpha) for alpha in (0.05, 0.01, 1e-3, 1e-6)] == [
        1_999, 4_999, 49_999, 131_072
    ]  # fmt: skip
    assert _patterns(16, 0.01, 0).shape == (16, 2**16)
    assert len(np.unique(_patterns(16, 0.01, 0), axis=1).T) == 2**16
    assert set(np.unique(_patterns(16, 0.01, 0))) == {-1.0, 1.0}
    random, shares = _patterns(17, 0.01, 0), _shares(17, 0.01, 0)
    assert random.shape == shares.shape == (17, 4_999)
    assert set(np.unique(random)) == {-1.0, 1.0}
    assert np.abs(random.mean(axis=1)).max() < 0.06
    assert shares.sum(axis=0) == pytest.approx(np.ones(4_999))
    assert shares * 17 == pytest.approx(np.round(shares * 17))


@pytest.mark.parametrize("n", [5, 12, 16, 20])
def test_p_of_many_samples_at_once_are_those_of_each(n: int) -> None:
    samples = np.random.default_rng(0).normal(0.4, 1.0, (30, n))
    signs, shares = _patterns(n, 0.01, 0), _shares(n, 0.01, 0)
    extra = 1 if n > 16 else 0
    for at, (flip, boot) in enumerate(
        zip(_flip_p(samples, signs), _bootstrap_p(samples, shares), strict=True)
    ):
        x = samples[at]
        hits = np.count_nonzero(x @ signs >= x.sum() - 1e-9)
        assert flip == (hits + extra) / (signs.shape[1] + extra)
        moved = (x - x.mean()) @ shares
        spread = np.sqrt(np.maximum(np.square(x - x.mean()) @ shares - moved**2, 0.0))
        t = moved / np.maximum(spread, 0.25 * x.std())
        hits = np.count_nonzero(t >= x.mean() / x.std())
        assert boot == (hits + 1) / (shares.shape[1] + 1)
    for scale in (1e-12, 1e9):
        assert _flip_p(samples * scale, signs) == pytest.approx(_flip_p(samples, signs))
        assert _bootstrap_p(samples * scale, shares) == pytest.approx(
            _bootstrap_p(samples, shares), abs=1e-3
        )
    for value in (0.0, 1.0):  # without spread sign flips decide
        assert _bootstrap_p(np.full((1, n), value), shares).tolist() == [0.0]


def test_what_is_left_out_is_said_in_the_signature() -> None:
    rate = detection_rate(BASE, 0.6, 20)
    assert rate == detection_rate(BASE, 0.6, 20, 0.01, 500, 0, None)
    assert rate != detection_rate(BASE, 0.6, 20, seed=1)


def test_samples_are_drawn_from_residuals_spread_as_their_population_is() -> None:
    residuals = np.array([4.0, 5.0, 6.0, 9.0])
    wide = (residuals - 6.0) * math.sqrt(4 / 3)
    samples = 1.6 + wide[np.random.default_rng(2).integers(4, size=(300, 14))]
    flips = _flip_p(samples, _patterns(14, 0.01, 2)) < 0.01
    boots = _bootstrap_p(samples, _shares(14, 0.01, 2)) < 0.01
    rate = detection_rate(residuals, 1.6, 14, 0.01, 300, 2)
    assert 0.1 < rate == np.mean(flips & boots) < 0.9


def test_two_units_detect_nothing_and_one_simulation_is_a_simulation() -> None:
    assert detection_rate(BASE, 9.0, 2) == 0.0
    assert detection_rate(BASE, 9.0, 12, n_sims=1) == 1.0
    for n, sims in ((1, 9), (9, 0)):
        with pytest.raises(UsageError, match="n >= 2 and n_sims >= 1"):
            detection_rate(BASE, 9.0, n, n_sims=sims)
    assert detection_rate(BASE, 100.0, 8, 2.0**-8) == 0.0  # a p of alpha is not below it


@pytest.mark.parametrize(
    ("spike", "n"),
    [(0.3, 20), (0.62, 20), (0.72, 20), (0.8, 20), (0.85, 20), (2.0, 20), (1.05, 12), (1.15, 16)],
)
def test_it_stops_once_the_side_of_the_rate_is_clear(spike: float, n: int) -> None:
    for seen in range(50, 501, 50):
        rate = detection_rate(BASE, spike, n, 0.01, seen)
        hits = round(rate * seen)
        p = min(stats.binom.sf(hits - 1, seen, 0.8), stats.binom.cdf(hits, seen, 0.8))
        if p < 1e-3:
            break
    assert detection_rate(BASE, spike, n, 0.01, 500, enough=0.8) == rate


@pytest.mark.parametrize("n", [2, 9, 40])
def test_power_of_the_t_test_is_statsmodels(n: int) -> None:
    exact = TTestPower().power(0.4, n, 0.03, alternative="larger")
    assert _t_power(n, 0.4, 0.03) == pytest.approx(exact)


def test_beyond_a_million_units_nothing_is_planned() -> None:
    distance = float(stats.norm.isf(0.01) + stats.norm.ppf(0.8))
    planned = [n_needed(BASE + distance / math.sqrt(n), 0.0) for n in (999_998.5, 1_000_000.5)]
    assert planned == [pytest.approx(999_999, abs=5), None]
    assert n_needed([0.1] * 8, 0.0, alpha=1e-4) == 14  # without spread, however small
