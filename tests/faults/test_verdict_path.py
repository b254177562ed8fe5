"""Faults of the verdict path itself: whatever breaks between readings and exit code is red."""

import dataclasses

import numpy as np
import pytest

from arrcoc_verify import suite, trial
from arrcoc_verify.audit import SceneSet, run_audit
from arrcoc_verify.claim import Claim, Contract, Distances, Effects
from arrcoc_verify.errors import RecordError, SiteDidNotFire
from arrcoc_verify.gate import Gate, Reading
from arrcoc_verify.graph import Edit
from arrcoc_verify.lab import Lab
from arrcoc_verify.reference import analytic
from arrcoc_verify.report.writer import RecordWriter
from arrcoc_verify.scenes import scenes
from arrcoc_verify.stats import conclude, decide, known, multiplicity
from arrcoc_verify.trial import Settings, settle, try_model
from arrcoc_verify.verdict import Outcome, Waiver, exit_code

TODAY = "2030-01-01"
N = 24
FIRED = {"one": {"a fault": "fired"}}


def strong(n=N):
    return Effects(values=5 + 0.1 * np.random.default_rng(1).standard_normal(n))


def claim(measure, name="one", margin=1.0, **changed):
    return Claim(
        id=name, sentence="s", stage="knowing", kind="causes", operation="o", source="s",
        measure=measure, margin=margin, **changed,
    )  # fmt: skip


class Few(Lab):
    """A lab with as many clusters as readings, on which nothing is run."""

    def __init__(self, n=N):
        super().__init__(analytic.model(), [scenes("assert", per_cluster=1)[0]] * n)

    def clusters(self):
        return [f"c{i}" for i in range(len(self))]

    def subset(self, keep):
        return self


def code_of(*claims, gates=(), settings=None, controls=FIRED, n=N):
    found = try_model(Few(n), Few(n), claims, gates, settings or Settings(), faults_caught=controls)
    return exit_code(found.verdicts, TODAY, found.gates), found


def test_a_sound_path_is_green():
    code, found = code_of(claim(lambda lab: strong()))
    assert (0, Outcome.HOLDS) == (code, found.verdicts[0].outcome)


def spoilt(values, at=3, by=np.nan):
    changed = np.array(values, dtype=np.float64)
    changed[at] = by
    return changed


READINGS = {
    "NaN effects": lambda lab: Effects(values=spoilt(strong().values)),
    "infinite effects": lambda lab: Effects(values=spoilt(strong().values, by=np.inf)),
    "NaN placebos": lambda lab: Effects(values=strong().values, placebos=spoilt(np.zeros(N))),
    "NaN distances": lambda lab: Distances(values=spoilt(np.full(N, 0.01))),
    "a NaN count of violations": lambda lab: Contract(broken=spoilt(np.zeros(N)), cases=N),
    "no cases": lambda lab: Contract(broken=np.zeros(N), cases=0),
    "an exercise that no case met": lambda lab: dataclasses.replace(strong(), exercise={"t": 0}),
    "a spike that was not seen": lambda lab: Distances(
        values=np.full(N, 0.01), spiked=np.zeros(N)
    ),
    "a lost half of the readings": lambda lab: Effects(values=strong().values[:12]),
    "nothing returned": lambda lab: None,
    "an exception": lambda lab: 1 / 0,
}  # fmt: skip


@pytest.mark.parametrize("what", READINGS)
def test_spoilt_readings_turn_the_run_red(what):
    code, found = code_of(claim(READINGS[what]))
    assert 0 != code
    assert found.verdicts[0].outcome is not Outcome.HOLDS


def test_no_claim_collected_is_red():
    assert 2 == exit_code(settle([], [], Settings()).verdicts, TODAY)


def test_too_few_units_are_red():
    assert 3 == code_of(claim(lambda lab: strong(5)), n=5)[0]


def test_a_control_that_was_not_run_or_missed_is_red():
    for state in ("not_run", "missed"):
        assert 3 == code_of(claim(lambda lab: strong()), controls={"one": {"a fault": state}})[0]


def test_a_gate_that_fails_or_raises_is_red_even_where_no_claim_names_it():
    for read in (lambda lab: Reading(passed=False, reason="leaks"), lambda lab: 1 / 0):
        gate = Gate(id="runtime.x", sentence="s", stage="runtime", read=read)
        assert 2 == code_of(claim(lambda lab: strong()), gates=(gate,))[0]


def test_a_hook_that_did_not_fire_is_red():
    def unmet(lab):
        raise SiteDidNotFire("site 'x' met no activation")

    code, found = code_of(claim(unmet))
    assert (2, Outcome.INVALID) == (code, found.verdicts[0].outcome)


def test_an_edit_that_selects_nothing_is_red():
    def empty(lab):
        Edit(site="knowing.salience", value=lab.target[:1], where=lab.target[0] & False)

    assert 2 == code_of(claim(empty))[0]


def test_an_expired_waiver_is_red_and_a_live_one_stands_beside_the_verdict():
    for expires, wanted in (("2029-12-31", 1), ("2030-01-01", 2)):
        waived = Settings(waivers=(Waiver(claim="one", reason="r", author="a", expires=expires),))
        code, found = code_of(claim(lambda lab: Effects(values=-strong().values)), settings=waived)
        assert (wanted, Outcome.REFUTED) == (code, found.verdicts[0].outcome)


def single_argsort(p):
    values = np.asarray(p, dtype=np.float64)
    ranks = np.argsort(values)  # forgets that ranks need a second argsort
    return np.minimum(1.0, values * (len(values) - ranks))


def unadjusted(p):
    return np.asarray(p, dtype=np.float64)


def turned_round(hold, refute, alpha):
    if refute < alpha:
        return Outcome.HOLDS, "turned round"
    return (Outcome.REFUTED, "turned round") if hold < alpha else (Outcome.INCONCLUSIVE, "")


def lets_nan_pass(hold, refute, alpha):
    if not hold >= alpha:
        return Outcome.HOLDS, "not shown to be above"
    return (Outcome.REFUTED, "") if refute < alpha else (Outcome.INCONCLUSIVE, "")


def usable(values):
    return None


CODE = {
    "Holm by a single argsort": (conclude, "holm", single_argsort),
    "no correction at all": (conclude, "holm", unadjusted),
    "a threshold compared the wrong way": (conclude, "_outcome", turned_round),
    "values that are not finite let through": (decide, "_unusable", usable),
    "a blind check that may hold": (known, "with_control", lambda decision, rate: decision),
    "a contract that counts nothing": (
        known, "decide_contract", lambda broken, cases, met=None: decide.decide_contract(0, 9),
    ),
    "an exit code that is always 0": (known, "exit_code", lambda verdicts, today: 0),
}  # fmt: skip


@pytest.mark.parametrize("what", CODE)
def test_broken_code_on_the_path_makes_the_whole_run_invalid(what, monkeypatch):
    module, name, broken = CODE[what]
    monkeypatch.setattr(module, name, broken)
    code, found = code_of(claim(lambda lab: strong()))
    assert (2, Outcome.INVALID) == (code, found.verdicts[0].outcome)
    assert "the verifier itself errs" in found.verdicts[0].reason


def test_the_textbook_family_tells_the_wrong_sorting_apart():
    assert not np.allclose(
        single_argsort([0.04, 0.01, 0.02]), multiplicity.holm([0.04, 0.01, 0.02])
    )


def test_known_cases_come_out_right_here():
    assert "" == known.first_wrong_answer()


@pytest.fixture
def few_scenes():
    found = scenes("assert", per_cluster=1)[:2]
    return SceneSet(asserted=tuple(found), selected=tuple(found), name="two", digest="d")


def test_a_claim_whose_result_was_lost_stops_the_record(few_scenes, monkeypatch, tmp_path):
    real = RecordWriter.add_claim
    lost = "attending.tokens-are-whole"
    monkeypatch.setattr(
        RecordWriter, "add_claim",
        lambda self, v, *rest: None if v.id == lost else real(self, v, *rest),
    )  # fmt: skip
    settings = Settings(claims=("attending.tokens-*",))
    with pytest.raises(RecordError, match=lost):
        run_audit(analytic.model(), few_scenes, settings, tmp_path / "run", controls=dict)


def test_a_swallowed_exception_cannot_look_like_a_verdict(monkeypatch):
    def swallowing(one, lab, gates):
        try:
            one.measure(lab)
        except ZeroDivisionError:
            return trial.Attempt(claim=one)
        return trial.Attempt(claim=one)

    monkeypatch.setattr(trial, "attempt", swallowing)
    code, found = code_of(claim(lambda lab: 1 / 0))
    assert (2, Outcome.NOT_RUN) == (code, found.verdicts[0].outcome)


def test_a_claim_that_was_dropped_from_the_suite_makes_no_other_easier():
    kept = claim(lambda lab: strong(), "one")
    crashing = claim(lambda lab: 1 / 0, "two")
    for family in ([kept], [kept, crashing]):
        verdict = code_of(*family)[1].verdicts[0]
        assert verdict.p_adjusted == pytest.approx(len(family) * verdict.p_value)


def test_every_claim_of_the_suite_has_a_span():
    from arrcoc_verify.suite.spans import PARTS, span

    for one in suite.CLAIMS:
        parts = span(one.id, one.stage)
        assert parts
        assert set(parts) <= set(PARTS)
