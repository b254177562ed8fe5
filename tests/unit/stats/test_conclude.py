"""Concluding a family: adjustment, order, and outcomes that only evidence can reach."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrcoc_verify.errors import NonFinite, UsageError
from arrcoc_verify.stats.conclude import conclude, with_control
from arrcoc_verify.stats.decide import (
    Decision,
    decide_causes,
    decide_contract,
    decide_no_effect,
    decide_proportion,
)
from arrcoc_verify.stats.multiplicity import holm
from arrcoc_verify.stats.permutation import max_t
from arrcoc_verify.verdict import Outcome

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=16)
CLEAR = decide_causes(NOISE + 9.0, margin=1.0)


def raw(hold: float, refute: float) -> Decision:
    return replace(CLEAR, p_hold=hold, p_refute=refute)


def test_holm_adjusts_both_directions_separately_and_in_order() -> None:
    hold, refute = [0.001, 0.5, 0.02, 0.004], [0.9, 0.001, 0.9, 0.9]
    found = conclude([raw(a, b) for a, b in zip(hold, refute, strict=True)], 0.01)
    assert [d.p_hold_adjusted for d in found] == pytest.approx(holm(hold).tolist())
    assert [d.p_refute_adjusted for d in found] == pytest.approx(holm(refute).tolist())
    wanted = [Outcome.HOLDS, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE]
    assert wanted == [d.outcome for d in found]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_outcomes_are_what_adjusted_p_say_and_adjusting_never_helps(pairs) -> None:
    for d in conclude([raw(*pair) for pair in pairs], 0.05):
        holds, refuted = d.p_hold_adjusted < 0.05, d.p_refute_adjusted < 0.05
        assert (d.outcome is Outcome.HOLDS) == (holds and not refuted)
        assert (d.outcome is Outcome.REFUTED) == (refuted and not holds)
        assert d.p_hold_adjusted >= d.p_hold - 1e-12


def test_p_equal_to_alpha_does_not_hold() -> None:
    assert Outcome.INCONCLUSIVE == conclude([raw(0.01, 1.0)], 0.01)[0].outcome


def test_p_equal_to_alpha_does_not_refute_either() -> None:
    assert conclude([raw(1.0, 0.01)], 0.01)[0].outcome is Outcome.INCONCLUSIVE
    assert conclude([raw(1.0, 0.0099)], 0.01)[0].outcome is Outcome.REFUTED


def test_claims_that_could_not_be_tested_still_count_in_the_family() -> None:
    lost = [decide_causes([math.nan] * 9, margin=0.0), decide_causes([], margin=0.0)]
    few = decide_causes([1.0] * 5, margin=0.0)
    found = conclude([raw(0.004, 1.0), *lost, few], 0.01)
    assert 0.016 == pytest.approx(found[0].p_hold_adjusted)
    assert [Outcome.INCONCLUSIVE, Outcome.INVALID, Outcome.NOT_RUN, Outcome.INCONCLUSIVE] == [
        d.outcome for d in found
    ]


def test_contracts_pass_through_and_do_not_count() -> None:
    contract = decide_contract(0, 10)
    found = conclude([contract, raw(0.009, 1.0)], 0.01)
    assert contract == found[0]
    assert (Outcome.HOLDS, 0.009) == (found[1].outcome, found[1].p_hold_adjusted)
    assert () == conclude([])
    assert (contract,) == conclude([contract])


def test_units_too_few_for_the_family_are_said_with_the_number_needed() -> None:
    small = decide_causes([9.0, 9.1, 9.2, 9.3, 9.4, 9.5, 9.6, 9.7], margin=1.0)
    assert Outcome.HOLDS == conclude([small], 0.01)[0].outcome
    found = conclude([small] * 30, 0.01)[0]
    assert (Outcome.INCONCLUSIVE, 12) == (found.outcome, found.n_needed)
    assert "8 units cannot show it" in found.reason
    assert "at least 12 are needed" in found.reason


def test_too_few_random_patterns_are_not_blamed_on_units() -> None:
    many = decide_causes(np.tile(NOISE, 4) + 9.0, margin=1.0, alpha=0.05)
    found = conclude([many] * 1_000, 0.01)[0]
    assert Outcome.INCONCLUSIVE == found.outcome
    assert "draw more sign patterns (decide with alpha=1e-05)" in found.reason


def test_inconclusive_says_the_n_that_would_decide() -> None:
    found = conclude([decide_causes(NOISE - NOISE.mean() + 1.3, margin=1.0)], 0.01)[0]
    assert Outcome.INCONCLUSIVE == found.outcome
    assert found.n_needed > 16
    assert f"about {found.n_needed} units would decide" in found.reason
    never = conclude([decide_causes([0.0, 2.0] * 8, margin=1.0)], 0.01)[0]
    assert never.n_needed is None
    assert "no n would decide" in never.reason


def test_every_kind_can_be_inconclusive_with_a_plan() -> None:
    kinds = [
        decide_no_effect(np.abs(NOISE), margin=1.1),
        decide_proportion(41, 50, at_least=0.8),
    ]
    for found in conclude(kinds, 0.01):
        assert Outcome.INCONCLUSIVE == found.outcome
        assert found.n_needed > found.n


def test_max_t_decides_more_than_holm_where_claims_go_together() -> None:
    base = np.random.default_rng(3).normal(0.85, 1.0, 14)
    family = [decide_causes(base * k, margin=0.0, alpha=1e-3) for k in range(1, 11)]
    apart, together = conclude(family, 0.05), conclude(family, 0.05, [range(10)])
    assert all(d.outcome is Outcome.INCONCLUSIVE for d in apart)
    assert all(d.outcome is Outcome.HOLDS for d in together)


def test_a_group_gets_the_part_of_alpha_that_its_size_deserves() -> None:
    pair = [decide_causes(NOISE * k + k * 0.5, margin=0.0) for k in (1, 2)]
    mixed = conclude([*pair, raw(0.001, 1.0), raw(0.5, 1.0)], 0.01, [[0, 1]])
    table = np.array([d.excess for d in pair]).T
    assert mixed[0].p_hold_adjusted == pytest.approx(2 * max_t(table)[0])
    assert conclude(pair, 0.01, [[0, 1]])[0].p_hold_adjusted == pair[0].p_hold > max_t(table)[0]
    assert mixed[2].p_hold_adjusted == pytest.approx(2 * 0.002)


def test_an_invalid_member_of_a_group_stays_invalid_and_keeps_its_place() -> None:
    broken = decide_causes([math.nan] * 16, margin=0.0)
    found = conclude([broken, CLEAR], 0.01, [[0, 1]])
    assert [Outcome.INVALID, Outcome.HOLDS] == [d.outcome for d in found]
    assert 1.0 == found[0].p_hold_adjusted


def test_groups_that_cannot_share_units_are_refused() -> None:
    other = decide_causes(NOISE[:12] + 3, margin=0.0)
    for decisions, shared in (
        ([CLEAR, other], [[0, 1]]),
        ([CLEAR, decide_proportion(10, 16, at_least=0.5)], [[0, 1]]),
        ([CLEAR, CLEAR], [[0, 1], [1]]),
        ([CLEAR], [[0, 1]]),
    ):
        with pytest.raises(UsageError, match="shared"):
            conclude(decisions, 0.01, shared)


def test_contradicting_directions_are_inconclusive() -> None:
    found = conclude([raw(0.001, 0.001)], 0.01)[0]
    assert Outcome.INCONCLUSIVE == found.outcome
    assert "contradict" in found.reason


def test_a_p_that_is_nan_raises_and_never_passes() -> None:
    with pytest.raises(NonFinite):
        conclude([raw(math.nan, 0.5)])


def test_a_control_that_was_not_detected_takes_the_verdict_back() -> None:
    held = conclude([CLEAR], 0.01)[0]
    assert held == with_control(held, 0.8)
    for rate in (0.79, 0.0, math.nan):
        found = with_control(held, rate)
        assert Outcome.INCONCLUSIVE == found.outcome
        assert "detected in" in found.reason
    open_ = conclude([raw(0.5, 0.5)])[0]
    assert open_ == with_control(open_, 0.0)


def test_the_patterns_of_a_group_fit_its_part_of_alpha_and_come_from_the_seed() -> None:
    many = np.random.default_rng(1).normal(0.4, 1.0, 20)
    pair = [replace(decide_causes(many * k, margin=0.0), p_hold=0.0) for k in (1, 2)]
    family = [*pair, raw(0.5, 0.5), raw(0.5, 0.5)]
    table = np.array([d.excess for d in pair]).T
    wanted = 2.0 * max_t(table, 0.0, "greater", 0.005, 0)
    found = conclude(family, 0.01, [[0, 1]])
    assert [d.p_hold_adjusted for d in found[:2]] == wanted.tolist()
    assert found == conclude(family, 0.01, [[0, 1]], seed=0)


def test_a_group_of_one_that_is_the_whole_family_keeps_its_p() -> None:
    one = replace(decide_causes(NOISE + 0.5, margin=0.0), p_hold=0.0)
    table = np.array([one.excess]).T
    assert conclude([one], 0.01, [[0]])[0].p_hold_adjusted == max_t(table)[0]


def test_adjusted_p_never_exceed_one() -> None:
    against = decide_causes(NOISE - 9.0, margin=0.0)
    found = conclude([against, raw(1.0, 0.4), raw(0.9, 0.9)], 0.01, [[0]])
    assert [d.p_hold_adjusted for d in found] == [1.0, 1.0, 1.0]


def test_the_n_that_would_decide_is_more_than_there_were() -> None:
    clearly_above_but_not_shown = raw(0.5, 0.5)
    assert conclude([clearly_above_but_not_shown], 0.01)[0].n_needed == CLEAR.n + 1


def test_a_member_of_a_group_with_too_few_units_stays_undecided_and_spoils_no_other() -> None:
    few = decide_causes(NOISE[:5], margin=0.0)
    found = conclude([few, CLEAR], 0.01, [[0, 1]])
    assert [Outcome.INCONCLUSIVE, Outcome.HOLDS] == [d.outcome for d in found]
    assert found[0].p_hold_adjusted == 1.0


def test_units_whose_least_p_is_the_level_itself_cannot_show_it() -> None:
    eight = decide_causes([9.0, 9.1, 9.2, 9.3, 9.4, 9.5, 9.6, 9.7], margin=1.0)
    assert eight.least_p == eight.p_hold == 2.0**-8
    found = conclude([eight], 2.0**-8)[0]
    assert (found.outcome, found.n_needed) == (Outcome.INCONCLUSIVE, 9)
    assert "8 units cannot show it" in found.reason
    assert "at least 9 are needed" in found.reason
