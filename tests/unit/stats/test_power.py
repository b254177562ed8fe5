"""Power: textbook sample sizes and the spiked control."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.decide import decide_causes
from arrcoc_verify.stats.power import detection_rate, least_n, n_needed

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
