"""Re-randomisation tests: Fisher's example, brute force, invariants."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError
from arrcoc_verify.stats.flips import flipped_sums, n_flips_for, smallest_p
from arrcoc_verify.stats.permutation import max_t, mcnemar_exact, placebo_rank, sign_flip

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Heights of crossed minus self-fertilised maize, eighths of an inch (Darwin 1876)."""

EFFECTS = st.lists(st.integers(-20, 20), min_size=2, max_size=9)


def brute(x: np.ndarray, side: str) -> float:
    sums = np.array([np.dot(signs, x) for signs in product((1, -1), repeat=len(x))])
    seen = x.sum()
    if side == "two-sided":
        return float(np.mean(np.abs(sums) >= abs(seen) - 1e-9))
    return float(np.mean(sums >= seen - 1e-9 if side == "greater" else sums <= seen + 1e-9))


def test_darwins_maize_gives_fishers_863_of_32768() -> None:
    found = sign_flip(DARWIN)
    assert 863 / 2**15 == found.p
    assert (15, 2**15, True) == (found.n, found.n_flips, found.exact)
    assert found.statistic == pytest.approx(2.148, abs=5e-4)
    assert 1726 / 2**15 == sign_flip(DARWIN, alternative="two-sided").p


@settings(max_examples=60, deadline=None)
@given(EFFECTS, st.sampled_from(["greater", "less", "two-sided"]), st.integers(-5, 5))
def test_exact_p_equals_brute_force(x: list[int], side: str, margin: int) -> None:
    shifted = np.array(x, dtype=float) - margin
    assert brute(shifted, side) == sign_flip(x, float(margin), side).p


@settings(max_examples=40, deadline=None)
@given(EFFECTS, st.randoms())
def test_p_depends_on_neither_order_nor_scale(x: list[int], random) -> None:
    other = list(x)
    random.shuffle(other)
    assert sign_flip(x).p == sign_flip(other).p
    assert sign_flip(x).p == sign_flip(np.array(x) * 0.1).p


@settings(max_examples=40, deadline=None)
@given(EFFECTS, st.integers(-9, 9), st.integers(0, 9))
def test_p_rises_with_the_margin(x: list[int], margin: int, more: int) -> None:
    assert sign_flip(x, float(margin)).p <= sign_flip(x, float(margin + more)).p


@settings(max_examples=40, deadline=None)
@given(EFFECTS)
def test_both_directions_never_reject_together(x: list[int]) -> None:
    assert sign_flip(x).p + sign_flip(x, alternative="less").p >= 1.0


def test_monte_carlo_p_agrees_with_exact_enumeration() -> None:
    x = np.random.default_rng(0).normal(0.4, 1.0, 17)
    # exact p of 17 units by hand: the test itself enumerates up to 16 only
    sums = np.zeros(1)
    for value in x:
        sums = np.concatenate([sums + value, sums - value])
    exact = float(np.mean(sums >= x.sum() - 1e-12))
    found = sign_flip(x, alpha=0.001)
    assert not found.exact
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / found.n_flips))


def test_monte_carlo_p_is_never_zero() -> None:
    found = sign_flip(np.full(40, 3.0) + np.arange(40) * 0.01, alpha=0.01)
    assert 1 / (found.n_flips + 1) == found.p
    assert smallest_p(40, found.n_flips) == found.p


def test_random_patterns_are_fair_and_independent() -> None:
    n = 20
    sums = np.concatenate(list(flipped_sums(np.eye(n), 40_000, seed=3)))
    assert set(np.unique(sums)) == {-1.0, 1.0}
    assert np.abs(sums.mean(axis=0)).max() < 0.025
    assert np.abs(np.corrcoef(sums.T) - np.eye(n)).max() < 0.03


def test_patterns_do_not_depend_on_chunks(monkeypatch) -> None:
    y = np.random.default_rng(0).normal(size=(18, 3))
    drawn = np.concatenate(list(flipped_sums(y, 1_000, seed=1)))
    assert (1_000, 3) == drawn.shape
    assert len(np.unique(drawn[:, 0])) > 990


def test_no_effect_at_all_gives_p_of_one() -> None:
    assert 1.0 == sign_flip([0.0] * 12).p
    assert 1.0 == sign_flip([5.0] * 12, margin=5.0).p
    assert 0.0 == sign_flip([0.0] * 12).statistic


def test_equal_effects_give_the_least_p_and_an_infinite_statistic() -> None:
    found = sign_flip([2.0] * 10)
    assert smallest_p(10) == found.p
    assert math.inf == found.statistic


def test_smallest_p_is_what_the_units_allow() -> None:
    assert [1.0, 1 / 256, 2**-16, 1 / 1_000_001, 1 / 100] == [
        smallest_p(0), smallest_p(8), smallest_p(16), smallest_p(17), smallest_p(64, 99)
    ]  # fmt: skip
    with pytest.raises(UsageError):
        smallest_p(-1)


def test_flips_suffice_for_the_level_asked() -> None:
    assert 2**16 == n_flips_for(16, 1e-6)
    assert 19_999 == n_flips_for(17, 0.01)
    assert 1_000_000 == n_flips_for(17, 1e-9)
    assert all(smallest_p(30, n_flips_for(30, a)) * 50 < a for a in (0.05, 0.01, 1e-3, 2e-4))


@pytest.mark.parametrize("call", [sign_flip, lambda x: max_t(np.array([x, x]).T)])
def test_nan_is_refused(call) -> None:
    with pytest.raises(NonFinite):
        call([1.0, math.nan, 2.0])


def test_empty_samples_and_unknown_alternatives_are_refused() -> None:
    with pytest.raises(TooFewUnits):
        sign_flip([])
    with pytest.raises((UsageError, TypeCheckError), match="upwards"):
        sign_flip(DARWIN, alternative="upwards")
    with pytest.raises(UsageError, match="margin"):
        sign_flip(DARWIN, margin=math.nan)


def brute_max_t(x: np.ndarray, step_down: bool) -> np.ndarray:
    """Westfall & Young's definition, hypothesis by hypothesis."""
    n, m = x.shape

    def t(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=0) / values.std(axis=0, ddof=1) * math.sqrt(n)

    all_t = np.array([t(x * np.array(s)[:, None]) for s in product((1, -1), repeat=n)])
    seen = t(x)
    order, adjusted, last = np.argsort(-seen), np.empty(m), 0.0
    for at, claim in enumerate(order):
        rivals = order[at:] if step_down else order
        last = max(last, float(np.mean(all_t[:, rivals].max(axis=1) >= seen[claim] - 1e-9)))
        adjusted[claim] = last
    return adjusted


@pytest.mark.parametrize("step_down", [True, False])
def test_max_t_equals_its_definition(step_down: bool) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, 4)) + np.array([1.5, 0.0, 0.4, 0.9])
    assert max_t(x, step_down=step_down) == pytest.approx(brute_max_t(x, step_down))


def test_max_t_of_one_claim_is_the_sign_flip() -> None:
    assert sign_flip(DARWIN, 3.0).p == max_t(np.array(DARWIN)[:, None], 3.0)[0]


def test_max_t_of_copies_costs_nothing_and_step_down_never_costs_more() -> None:
    x = np.array(DARWIN, dtype=float)[:, None] * np.array([1.0, 2.0, 5.0])
    assert max_t(x) == pytest.approx([sign_flip(DARWIN).p] * 3)
    y = np.random.default_rng(2).normal(0.5, 1, (20, 6))
    assert np.all(max_t(y) <= max_t(y, step_down=False))


def test_max_t_keeps_the_order_of_the_columns_and_takes_margins_per_claim() -> None:
    x = np.random.default_rng(5).normal(size=(12, 3)) + np.array([0.0, 3.0, 1.0])
    p = max_t(x)
    assert max_t(x[:, [2, 0, 1]]) == pytest.approx(p[[2, 0, 1]])
    assert max_t(x + np.array([7.0, 8.0, 9.0]), margin=[7.0, 8.0, 9.0]) == pytest.approx(p)


def test_max_t_handles_columns_without_spread() -> None:
    p = max_t(np.stack([np.full(10, 2.0), np.zeros(10)], axis=1))
    assert [2**-10, 1.0] == p.tolist()
    with pytest.raises(UsageError):
        max_t(np.zeros((0, 3)))


def test_placebo_rank_counts_ties_against_the_claim() -> None:
    assert 1 / 20 == placebo_rank(5.0, np.arange(19) / 10)
    assert 2 / 20 == placebo_rank(1.8, np.arange(19) / 10)
    assert 1.0 == placebo_rank(0.0, [0.0] * 9)
    assert 1 / 4 == placebo_rank(-5.0, [1.0, -2.0, 3.0], "two-sided")
    with pytest.raises(NonFinite):
        placebo_rank(math.nan, [1.0])
    with pytest.raises(TooFewUnits):
        placebo_rank(1.0, [])


def test_placebo_rank_is_uniform_among_exchangeable_readings() -> None:
    readings = np.random.default_rng(0).permutation(20).astype(float)
    p = sorted(placebo_rank(r, np.delete(readings, at)) for at, r in enumerate(readings))
    assert p == pytest.approx(np.arange(1, 21) / 20)


@pytest.mark.parametrize(("b", "c"), [(1, 9), (5, 5), (0, 6), (12, 4)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    expected = mcnemar([[10, b], [c, 10]], exact=True).pvalue
    assert mcnemar_exact(b, c) == pytest.approx(min(1.0, expected))


def test_mcnemar_without_discordant_cases_shows_nothing() -> None:
    assert 1.0 == mcnemar_exact(0, 0)
    assert 2**-6 == mcnemar_exact(6, 0, "greater")
    with pytest.raises(UsageError):
        mcnemar_exact(-1, 2)


def test_statistic_and_p_do_not_depend_on_the_unit_of_measurement() -> None:
    usual = sign_flip(DARWIN)
    assert usual.statistic == pytest.approx(stats.ttest_1samp(DARWIN, 0.0).statistic)
    for scale in (1e-12, 1e-3, 1e9):
        found = sign_flip(np.array(DARWIN) * scale)
        assert found.statistic == pytest.approx(usual.statistic)
        assert found.p == usual.p
    assert sign_flip([1.0, 3.0]).statistic == pytest.approx(2.0)
    assert sign_flip(np.full(1_000, 0.1)).statistic == math.inf


def test_what_is_left_out_is_said_in_the_signature() -> None:
    x = np.random.default_rng(0).normal(0.3, 1.0, (20, 3))
    assert sign_flip(x[:, 0]) == sign_flip(x[:, 0], 0.0, "greater", 0.01, 0)
    assert sign_flip(x[:, 0]) != sign_flip(x[:, 0], seed=1)
    usual = {"margin": 0.0, "alternative": "greater", "alpha": 0.01, "seed": 0, "step_down": True}
    assert max_t(x).tolist() == max_t(x, **usual).tolist()
    assert max_t(x).tolist() != max_t(x, seed=1).tolist()
    assert max_t(x).tolist() != max_t(x, step_down=False).tolist()


def test_max_t_wants_a_table_of_any_size() -> None:
    assert max_t([[1.0]]).tolist() == [0.5]
    for shape in ((5,), (5, 2, 2), (3, 0)):
        with pytest.raises(UsageError, match="shape"):
            max_t(np.ones(shape))


def test_smallest_p_takes_no_units_and_one_flip_and_nothing_less() -> None:
    assert smallest_p(40, 1) == 0.5
    for n, flips in ((-1, 9), (40, 0)):
        with pytest.raises(UsageError, match="n >= 0 units and n_flips >= 1"):
            smallest_p(n, flips)
    assert n_flips_for(17, 0.5) == 9_999


def test_mcnemar_one_sided_counts_every_discordant_case() -> None:
    assert mcnemar_exact(5, 5, "greater") == pytest.approx(638 / 1024)
    assert mcnemar_exact(1, 0, "greater") == 0.5
    with pytest.raises(UsageError):
        mcnemar_exact(2, -1)


def test_max_t_of_one_claim_is_the_sign_flip_among_random_patterns_too() -> None:
    x = np.random.default_rng(0).normal(0.3, 1.0, 20)
    assert max_t(x[:, None])[0] == sign_flip(x).p
    assert max_t(np.full((20, 1), 2.0))[0] == 1 / 20_000


def test_sixteen_units_are_counted_out() -> None:
    x = np.arange(1.0, 17.0)
    assert (sign_flip(x).p, sign_flip(x).exact) == (2.0**-16, True)
    assert max_t(x[:, None])[0] == 2.0**-16
    (sums,) = flipped_sums(2.0 ** np.arange(16.0)[:, None], 99, 0)
    assert len(np.unique(sums)) == 2**16  # each pattern once


def test_as_many_patterns_come_as_were_asked_for_however_they_are_cut_up() -> None:
    chunks = list(flipped_sums(np.ones((17, 300)), 4_000, 0))
    assert len(chunks) > 1
    assert sum(map(len, chunks)) == 4_000
