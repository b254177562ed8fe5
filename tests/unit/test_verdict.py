"""Exit codes by their whole table, and verdicts that survive JSON."""

import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.verdict import (
    Case,
    Estimate,
    GateResult,
    Outcome,
    Verdict,
    Waiver,
    exit_code,
    gate_from_json,
    to_json,
    verdict_from_json,
)

TODAY = "2026-06-15"


def verdict(outcome, **more):
    return Verdict(id="a.b", sentence="it is so", stage="knowing", kind="causes", outcome=outcome,
                   reason="shown", **more)  # fmt: skip


def waived(outcome, expires):
    return verdict(outcome, waiver=Waiver(claim="a.b", reason="known", author="A", expires=expires))


def gate(passed):
    return GateResult(id="a.gate", sentence="it must", stage="runtime", passed=passed)


ALONE = {
    Outcome.HOLDS: 0, Outcome.REFUTED: 1, Outcome.INVALID: 2, Outcome.NOT_RUN: 2,
    Outcome.INCONCLUSIVE: 3, Outcome.NOT_APPLICABLE: 2,
}  # fmt: skip


@pytest.mark.parametrize("outcome", Outcome)
def test_the_exit_code_of_one_verdict(outcome):
    assert exit_code([verdict(outcome)], TODAY) == ALONE[outcome]


WORST_FIRST = (
    Outcome.REFUTED, Outcome.INVALID, Outcome.NOT_RUN, Outcome.INCONCLUSIVE, Outcome.HOLDS
)  # fmt: skip


@pytest.mark.parametrize("pair", list(itertools.combinations(WORST_FIRST, 2)), ids=str)
def test_of_two_verdicts_the_worse_one_decides(pair):
    for one in (pair, pair[::-1]):
        assert exit_code([verdict(o) for o in one], TODAY) == ALONE[pair[0]]


def test_what_does_not_apply_or_is_not_required_decides_nothing():
    holds = verdict(Outcome.HOLDS)
    assert exit_code([holds, verdict(Outcome.NOT_APPLICABLE)], TODAY) == 0
    for outcome in Outcome:
        assert exit_code([holds, verdict(outcome, required=False)], TODAY) == 0
    assert exit_code([verdict(Outcome.HOLDS, required=False)], TODAY) == 2
    assert exit_code([], TODAY) == 2


def test_a_waiver_counts_up_to_its_last_day_and_makes_no_empty_run_green():
    holds = verdict(Outcome.HOLDS)
    assert exit_code([holds, waived(Outcome.REFUTED, "2026-06-15")], TODAY) == 0
    assert exit_code([holds, waived(Outcome.REFUTED, "2026-06-16")], TODAY) == 0
    assert exit_code([holds, waived(Outcome.REFUTED, "2026-06-14")], TODAY) == 1
    assert exit_code([waived(Outcome.INCONCLUSIVE, "2027-01-01")], TODAY) == 2
    assert exit_code([waived(Outcome.HOLDS, "2027-01-01")], TODAY) == 0


def test_only_a_gate_that_failed_counts_and_a_refuted_claim_comes_first():
    holds, refuted = verdict(Outcome.HOLDS), verdict(Outcome.REFUTED)
    assert exit_code([holds], TODAY, [gate(True), gate(None)]) == 0
    assert exit_code([holds], TODAY, [gate(True), gate(False)]) == 2
    assert exit_code([verdict(Outcome.INCONCLUSIVE)], TODAY, [gate(False)]) == 2
    assert exit_code([refuted], TODAY, [gate(False)]) == 1


NUMBERS = st.floats(allow_nan=False)


def estimate(value, low):
    return Estimate(value=value, low=low, high=2.0, level=0.95, n=9, unit="tokens", method="t")


@given(NUMBERS, NUMBERS, st.none() | NUMBERS, st.none() | st.integers(0, 9))
def test_a_verdict_survives_strict_json(value, low, margin, n_needed):
    case = Case(id="c", scene="s", query="red & <cup>", effect=value, region=(1, 2, 3, 4),
                maps={"tokens": "ab"}, waterfall=(("share", 64.0), ("tokens", low)))  # fmt: skip
    made = verdict(
        Outcome.REFUTED, effect=estimate(value, low), null=estimate(low, value), margin=margin,
        p_value=0.5, p_adjusted=1.0, n=9, n_needed=n_needed, exercise={"seen": 3}, required=False,
        controls={"sound model": "silent"}, failed_gates=("a.gate",), worst=(case,),
        numbers={"far": value}, seconds=1.5,
        waiver=Waiver(claim="a.b", reason="known", author="A", expires=TODAY),
    )  # fmt: skip
    text = json.dumps(to_json(made), allow_nan=False)
    assert verdict_from_json(json.loads(text)) == made


def test_the_least_that_a_verdict_says_survives_too_and_unknown_fields_are_left_out():
    made = verdict(Outcome.HOLDS)
    assert (made.required, made.n, made.seconds) == (True, 0, 0.0)
    assert verdict_from_json({**to_json(made), "later": [1]}) == made
    failed = replace(gate(False), measured=math.inf, limit=0.0, unit="tokens", reason="far")
    assert gate_from_json({**to_json(failed), "later": 1}) == failed


def test_numbers_that_are_not_finite_are_marked_and_come_back():
    marked = to_json({"a": [math.nan, math.inf, -math.inf, 1.0], 3: ("b", None, True)})
    assert marked == {
        "a": [{"nonfinite": "nan"}, {"nonfinite": "inf"}, {"nonfinite": "-inf"}, 1.0],
        "3": ["b", None, True],
    }
    back = gate_from_json({**to_json(gate(False)), "measured": {"nonfinite": "nan"}})
    assert math.isnan(back.measured)
