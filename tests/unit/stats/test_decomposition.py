"""Variance shares: identities, closed forms, unbiasedness, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.decomposition import COMPONENTS, FACTORS, decompose

LEVELS = np.indices((2, 2, 2, 2)) * 2.0 - 1.0


def values(y: np.ndarray, **more) -> dict[str, float]:
    return {name: share.value for name, share in decompose(y, **more).shares.items()}


def test_shares_of_a_noise_free_model_are_its_squared_coefficients() -> None:
    cell = 3 * LEVELS[0] + 2 * LEVELS[1] - 1 * LEVELS[2] + 2 * LEVELS[0] * LEVELS[2]
    y = np.tile(cell, (10, 1, 1, 1, 1)) + np.arange(10.0)[:, None, None, None, None] * 7
    found = decompose(y)
    shares = {k: v.value for k, v in found.shares.items()}
    assert shares == pytest.approx(
        dict.fromkeys(COMPONENTS, 0.0)
        | {
            "information": 9 / 18,
            "salience": 4 / 18,
            "query": 1 / 18,
            "information x query": 4 / 18,
        }
    )
    assert found.within == pytest.approx(18.0)
    assert found.between == pytest.approx(np.var(np.arange(10.0) * 7, ddof=1))
    assert found.coefficients["query"] == pytest.approx(-1.0)
    assert found.coefficients["information x query"] == pytest.approx(2.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 12), st.integers(1, 3), st.integers(0, 10**6), st.floats(-3, 3))
def test_shares_sum_to_one_and_parts_to_the_within_unit_variance(n, r, seed, shift) -> None:
    y = np.random.default_rng(seed).gamma(1.0, 1.0, (n, 2, 2, 2, 2, r))
    y[:, 1] += shift
    found = decompose(y, n_resamples=20)
    assert sum(share.value for share in found.shares.values()) == pytest.approx(1.0)
    assert found.within == pytest.approx(y.reshape(n, -1).var(axis=1).mean())


def test_each_factor_and_pair_reaches_its_own_component() -> None:
    for at, name in enumerate(FACTORS):
        assert 1.0 == pytest.approx(values(np.tile(LEVELS[at], (8, 1, 1, 1, 1)))[name])
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    for a, b in pairs:
        y = np.tile(LEVELS[a] * LEVELS[b], (8, 1, 1, 1, 1))
        assert 1.0 == pytest.approx(values(y)[f"{FACTORS[a]} x {FACTORS[b]}"])
    for product in (LEVELS[:3].prod(axis=0), LEVELS.prod(axis=0)):
        y = np.tile(product, (8, 1, 1, 1, 1))
        assert 1.0 == pytest.approx(values(y)["higher interactions"])


def test_an_effect_whose_sign_differs_between_units_is_nuisance() -> None:
    signs = np.array([1.0, -1.0] * 6)[:, None, None, None, None]
    shares = values(signs * LEVELS[0])
    assert shares["nuisance"] > 1.0
    assert shares["information"] < 0.0
    assert shares["nuisance"] + shares["information"] == pytest.approx(1.0)


def test_shares_do_not_depend_on_units_of_measurement_or_order_of_units() -> None:
    y = np.random.default_rng(0).normal(size=(9, 2, 2, 2, 2)) + LEVELS[1]
    assert values(y) == pytest.approx(values(64 + 3.5 * y))
    assert values(y) == pytest.approx(values(y[::-1]))


def test_parts_are_unbiased_and_replicates_tell_noise_from_nuisance() -> None:
    rng = np.random.default_rng(1)
    parts: dict[str, list[float]] = {name: [] for name in ("information", "nuisance", "noise")}
    for _ in range(300):
        slopes = 2.0 + rng.normal(0, 1.5, (8, 1, 1, 1, 1))
        y = (slopes * LEVELS[0])[..., None] + rng.normal(0, 3.0, (8, 2, 2, 2, 2, 2))
        found = decompose(y, n_resamples=1)
        for name, list_ in parts.items():
            list_.append(found.shares[name].value * found.within)
    means = {name: np.mean(list_) for name, list_ in parts.items()}
    errors = {name: np.std(list_) / math.sqrt(300) for name, list_ in parts.items()}
    truth = {"information": 4.0, "nuisance": 2.25, "noise": 9.0 * (1 - 1 / 32)}
    for name, true in truth.items():
        assert abs(means[name] - true) < 4 * errors[name]


def test_intervals_cover_the_true_share() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(120):
        slopes = 2.0 + rng.normal(0, 1.0, (20, 1, 1, 1, 1))
        y = slopes * LEVELS[0] + 1.5 * LEVELS[1]
        share = decompose(y, 0.9, 400, seed).shares["information"]
        covered += share.low <= 4.0 / (4.0 + 1.0 + 2.25) <= share.high
    assert covered / 120 > 0.8


def test_a_reading_that_nothing_moves_has_no_shares_and_says_so() -> None:
    for constant in (0.0, 0.1, 1e6):
        y = constant + np.arange(8.0)[:, None, None, None, None] * np.ones((8, 2, 2, 2, 2)) * 0.3
        found = decompose(y)
        assert not found.varies
        assert 0.0 == sum(abs(share.value) for share in found.shares.values())
        assert "degenerate" in found.shares["query"].method


def test_same_seed_same_intervals() -> None:
    y = np.random.default_rng(0).normal(size=(8, 2, 2, 2, 2))
    assert decompose(y, seed=1) == decompose(y, seed=1)
    assert decompose(y, seed=1) != decompose(y, seed=2)


def test_bad_readings_are_refused() -> None:
    y = np.zeros((8, 2, 2, 2, 2))
    with pytest.raises(UsageError, match="information, salience, query, position"):
        decompose(np.zeros((8, 2, 2, 2)))
    with pytest.raises(TooFewUnits):
        decompose(y[:7])
    y[3, 0, 1, 0, 1] = math.nan
    with pytest.raises(NonFinite, match=r"\(3, 0, 1, 0, 1, 0\)"):
        decompose(y)
    with pytest.raises(UsageError, match="n_resamples"):
        decompose(np.zeros((8, 2, 2, 2, 2)), n_resamples=0)
