"""Decisions of single claims: what may be concluded, and what never."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.conclude import conclude
from arrcoc_verify.stats.decide import (
    WAITING,
    Decision,
    decide_causes,
    decide_contract,
    decide_no_effect,
    decide_proportion,
)
from arrcoc_verify.stats.flips import smallest_p
from arrcoc_verify.stats.permutation import sign_flip
from arrcoc_verify.stats.tails import MeanTails
from arrcoc_verify.verdict import Outcome

RNG = np.random.default_rng(0)
EFFECTS = RNG.normal(20.0, 5.0, 16)
PLACEBOS = RNG.normal(0.0, 2.0, (16, 4))
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


def alone(decision: Decision, alpha: float = 0.01) -> Decision:
    return conclude([decision], alpha)[0]


def test_nothing_holds_before_the_family_is_concluded() -> None:
    for decision in (
        decide_causes(EFFECTS, margin=8.0),
        decide_no_effect(np.abs(EFFECTS), margin=100.0),
        decide_proportion(40, 40, at_least=0.5),
    ):
        assert (Outcome.INCONCLUSIVE, WAITING) == (decision.outcome, decision.reason)
        assert Outcome.HOLDS == alone(decision).outcome


def test_a_clear_effect_holds_its_contrary_is_refuted_and_the_margin_is_open() -> None:
    outcomes = [alone(decide_causes(EFFECTS, margin=m)).outcome for m in (8.0, 40.0, 20.0)]
    assert [Outcome.HOLDS, Outcome.REFUTED, Outcome.INCONCLUSIVE] == outcomes


def test_the_estimate_is_the_effect_minus_its_own_placebos() -> None:
    found = decide_causes(EFFECTS, PLACEBOS, margin=8.0, unit="tokens")
    net = EFFECTS - PLACEBOS.mean(axis=1)
    assert found.effect.value == pytest.approx(net.mean())
    assert found.null.value == pytest.approx(PLACEBOS.mean())
    assert ("tokens", 16, 0.95) == (found.effect.unit, found.effect.n, found.effect.level)
    assert np.array(found.excess) == pytest.approx(net - 8.0)


def test_an_effect_that_placebos_have_too_is_no_effect() -> None:
    found = alone(decide_causes(EFFECTS, EFFECTS + RNG.normal(0, 1, 16), margin=8.0))
    assert Outcome.REFUTED == found.outcome


def test_p_is_never_below_that_of_the_sign_flip() -> None:
    for margin in (8.0, 18.0, 20.0, 25.0):
        found = decide_causes(EFFECTS, margin=margin)
        assert found.p_hold >= sign_flip(EFFECTS, margin).p
        assert found.p_refute >= sign_flip(EFFECTS, margin, "less").p


def test_effects_that_come_in_steps_are_not_undecidable() -> None:
    found = alone(decide_causes([336.0] * 15 + [300.0], margin=32.0))
    assert Outcome.HOLDS == found.outcome
    assert Outcome.HOLDS == alone(decide_causes([336.0] * 16, margin=32.0)).outcome
    assert Outcome.REFUTED == alone(decide_causes([0.0] * 15 + [1.0], margin=32.0)).outcome


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.data())
def test_one_value_that_is_not_finite_makes_it_invalid_and_never_holds(n: int, data) -> None:
    at, bad = data.draw(st.integers(0, n - 1)), data.draw(BAD)
    effects = np.full(n, 1e6)
    effects[at] = bad
    for decision in (
        decide_causes(effects, margin=0.0),
        decide_causes(np.full(n, 1e6), effects, margin=0.0),
        decide_causes(np.full(n, 1e6), np.stack([np.zeros(n), effects], axis=1), margin=0.0),
        decide_no_effect(np.where(np.isfinite(effects), 0.0, effects), margin=1.0),
    ):
        concluded = alone(decision)
        assert Outcome.INVALID == concluded.outcome
        assert f"1 of {n} units are not finite (unit {at})" in concluded.reason
        assert concluded.p_hold == 1.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=14),
    st.floats(0.1, 1e3),
)
def test_no_reading_whatever_makes_a_decision_raise(x: list[float], margin: float) -> None:
    usable = all(abs(value) <= 1e60 for value in x)
    for decision in (
        decide_causes(x, margin=margin),
        decide_no_effect([abs(value) for value in x], margin=margin),
    ):
        assert (alone(decision).outcome is Outcome.INVALID) == (not usable)


def test_no_units_is_not_run_and_few_are_inconclusive_with_what_is_needed() -> None:
    none, few = decide_causes([], margin=0.0), decide_causes([9.0] * 7, margin=0.0)
    assert Outcome.NOT_RUN == alone(none).outcome
    assert (Outcome.INCONCLUSIVE, 8) == (alone(few).outcome, alone(few).n_needed)
    assert "at least 8" in alone(few).reason
    assert Outcome.NOT_RUN == alone(decide_no_effect([], margin=1.0)).outcome
    assert Outcome.NOT_RUN == alone(decide_proportion(0, 0, at_least=0.5)).outcome
    assert Outcome.INCONCLUSIVE == alone(decide_proportion(7, 7, at_least=0.1)).outcome


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 30), min_size=8, max_size=14), st.integers(0, 10))
def test_p_follows_shifts_and_ignores_the_order_of_units(x: list[int], up: int) -> None:
    here = decide_causes(np.array(x), margin=4.0)
    better = decide_causes(np.array(x) + up, margin=4.0)
    assert better.p_hold <= here.p_hold
    assert better.p_refute >= here.p_refute
    turned = decide_causes(np.array(x[::-1]), margin=4.0)
    assert abs(turned.p_hold - here.p_hold) < 0.02


def test_only_distances_bounded_from_above_show_no_effect() -> None:
    quiet, loud = np.abs(RNG.normal(0, 0.1, 16)), np.abs(RNG.normal(0, 3.0, 16))
    assert Outcome.HOLDS == alone(decide_no_effect(quiet, margin=1.0)).outcome
    assert Outcome.REFUTED == alone(decide_no_effect(loud, margin=0.5)).outcome
    open_ = alone(decide_no_effect(loud, margin=3.5))
    assert Outcome.INCONCLUSIVE == open_.outcome
    assert {"p95", "p95_low", "p95_high"} == set(open_.numbers)
    assert open_.effect.method.startswith("root mean square")


def test_the_exact_quantile_rule_asks_for_its_ninety_units() -> None:
    found = alone(decide_no_effect(np.zeros(40) + 0.01, margin=1.0, quantile_rule="exact"))
    assert Outcome.INCONCLUSIVE == found.outcome
    assert 90 == found.n_needed
    enough = decide_no_effect(np.zeros(91) + 0.01, margin=1.0, quantile_rule="exact")
    assert Outcome.HOLDS == alone(enough).outcome


def test_negative_distances_and_margins_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError):
        decide_no_effect([-1.0] * 8, margin=1.0)
    for margin in (0.0, math.nan, math.inf):
        with pytest.raises(UsageError):
            decide_no_effect([1.0] * 8, margin=margin)
    with pytest.raises(UsageError):
        decide_causes(EFFECTS, margin=math.nan)
    with pytest.raises(UsageError, match="placebos"):
        decide_causes(EFFECTS, PLACEBOS[:5], margin=1.0)
    with pytest.raises(UsageError, match="shape"):
        decide_causes(PLACEBOS, margin=1.0)
    with pytest.raises(UsageError, match="alpha"):
        decide_causes(EFFECTS, margin=1.0, alpha=1.0)


def test_proportions_are_decided_by_the_binomial() -> None:
    found = decide_proportion(48, 50, at_least=0.8)
    tail = sum(math.comb(50, k) * 0.8**k * 0.2 ** (50 - k) for k in (48, 49, 50))
    assert found.p_hold == pytest.approx(tail)
    assert Outcome.HOLDS == alone(found).outcome
    assert Outcome.REFUTED == alone(decide_proportion(20, 50, at_least=0.8)).outcome
    assert Outcome.INCONCLUSIVE == alone(decide_proportion(41, 50, at_least=0.8)).outcome


def test_perfect_success_in_too_few_trials_says_how_many_are_needed() -> None:
    found = alone(decide_proportion(20, 20, at_least=0.9))
    assert (Outcome.INCONCLUSIVE, 44) == (found.outcome, found.n_needed)
    assert "20 units cannot show it" in found.reason


def test_always_is_a_contract_and_not_a_proportion() -> None:
    with pytest.raises(UsageError, match="decide_contract"):
        decide_proportion(10, 10, at_least=1.0)
    with pytest.raises(UsageError):
        decide_proportion(11, 10, at_least=0.5)


@pytest.mark.parametrize(
    ("violations", "cases", "exercised", "outcome"),
    [
        (0, 100, {}, Outcome.HOLDS),
        (0, 100, {"ties": 3, "padding": 1}, Outcome.HOLDS),
        (1, 100, {}, Outcome.REFUTED),
        (1, 100, {"ties": 0}, Outcome.REFUTED),
        (0, 0, {}, Outcome.NOT_RUN),
        (0, 0, {"ties": 0}, Outcome.NOT_RUN),
        (0, 100, {"ties": 0, "padding": 1}, Outcome.INCONCLUSIVE),
    ],
)
def test_contracts_need_cases_that_met_what_they_declare(
    violations: int, cases: int, exercised: dict[str, int], outcome: Outcome
) -> None:
    found = decide_contract(violations, cases, exercised)
    assert outcome == found.outcome
    assert found == alone(found)


def test_contracts_name_what_was_not_met_and_refuse_impossible_counts() -> None:
    assert "ties" in decide_contract(0, 5, {"ties": 0}).reason
    for violations, cases in ((-1, 5), (6, 5)):
        with pytest.raises(UsageError):
            decide_contract(violations, cases)


def test_the_least_p_is_what_units_and_resamples_allow() -> None:
    assert smallest_p(8) == decide_causes([1.0] * 8, margin=0.0).least_p


def test_p_of_many_units_is_bounded_by_resamples() -> None:
    assert decide_causes(np.tile(EFFECTS, 3), margin=0.0).least_p == 1.0 / 10_000
    strict = decide_causes(np.tile(EFFECTS, 3), margin=0.0, alpha=1e-3)
    assert strict.least_p == 1.0 / 100_000  # 199,999 sign patterns would allow less


def test_a_decision_that_was_told_nothing_can_show_nothing() -> None:
    bare = Decision(outcome=Outcome.INCONCLUSIVE, reason=WAITING)
    assert (bare.n, bare.least_p, bare.chance, bare.sign_flip) == (0, 1.0, 0.5, False)
    few = decide_causes([9.0] * 7, margin=0.0)
    assert (few.p_hold, few.p_refute, few.least_p) == (1.0, 1.0, 1.0)


def test_the_largest_reading_that_counts_as_finite() -> None:
    at, beyond = [1e60] * 8, [*[1.0] * 7, math.nextafter(1e60, math.inf)]
    assert decide_causes(at, margin=0.0).outcome is Outcome.INCONCLUSIVE
    assert decide_causes(beyond, margin=0.0).outcome is Outcome.INVALID


def test_the_first_five_bad_units_are_named() -> None:
    for bad, said in ((5, "(unit 0, 1, 2, 3, 4)"), (6, "(unit 0, 1, 2, 3, 4, ...)")):
        effects = [math.nan] * bad + [1.0] * 3
        assert said in decide_causes(effects, margin=0.0).reason


def test_placebos_of_any_other_shape_are_refused() -> None:
    one = decide_causes(EFFECTS, PLACEBOS[:, 0], margin=8.0)
    assert one == decide_causes(EFFECTS, PLACEBOS[:, :1], margin=8.0)
    for shape in ((16, 0), (16, 2, 2), (15,), (17, 2), ()):
        with pytest.raises(UsageError, match="placebos: wanted shape"):
            decide_causes(EFFECTS, np.ones(shape), margin=8.0)


def test_p_is_the_larger_one_of_both_tests() -> None:
    found = decide_causes(EFFECTS, margin=18.5, alpha=0.01, seed=3)
    tails = MeanTails(EFFECTS, "bootstrap-t", 0.01, 3)
    flips = [sign_flip(EFFECTS, 18.5, side, 0.01, 3).p for side in ("greater", "less")]
    assert found.p_hold == max(flips[0], tails.p_above(18.5))
    assert found.p_refute == max(flips[1], tails.p_below(18.5))
    assert found.sign_flip


def test_what_is_left_out_is_said_in_the_signature() -> None:
    usual = {"alpha": 0.01, "level": 0.95, "seed": 0}
    plain = decide_causes(EFFECTS, PLACEBOS, margin=18.0)
    assert plain == decide_causes(EFFECTS, PLACEBOS, margin=18.0, **usual)
    assert plain != decide_causes(EFFECTS, PLACEBOS, margin=18.0, **{**usual, "seed": 1})
    near = decide_no_effect(EFFECTS, margin=24.0)
    assert near == decide_no_effect(EFFECTS, margin=24.0, **usual)
    assert near != decide_no_effect(EFFECTS, margin=24.0, **{**usual, "seed": 1})
    assert decide_proportion(9, 10, at_least=0.5) == decide_proportion(
        9, 10, at_least=0.5, level=0.95
    )


def test_each_rule_says_how_its_least_p_falls_with_units() -> None:
    exact = decide_no_effect(np.full(40, 0.01), margin=1.0, quantile_rule="exact")
    assert (exact.chance, exact.least_p) == (0.95, 0.95**40)
    observed = decide_no_effect(np.full(8, 0.01), margin=1.0)
    assert (observed.chance, observed.least_p) == (0.5, 2.0**-8)
    with pytest.raises(UsageError, match="one per unit"):
        decide_no_effect(np.ones((8, 2)), margin=1.0)


def test_no_success_at_all_refutes_and_each_trial_counts_from_the_rate() -> None:
    found = decide_proportion(0, 20, at_least=0.5)
    assert alone(found).outcome is Outcome.REFUTED
    mixed = decide_proportion(2, 3 + 6, at_least=0.75)
    assert mixed.excess == (0.25, 0.25, *[-0.75] * 7)
    assert (mixed.chance, mixed.least_p) == (0.75, 0.75**9)


def test_a_margin_that_makes_no_sense_is_refused_whatever_was_measured() -> None:
    for margin in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="margin"):
            decide_no_effect([math.nan] * 9, margin=margin)
