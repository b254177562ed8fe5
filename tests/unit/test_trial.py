"""From attempts to verdicts: gates, families, controls, waivers, kept readings."""

import numpy as np
import pytest

from arrcoc_verify.claim import Claim, Contract, Distances, Effects
from arrcoc_verify.gate import Gate, Reading
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes
from arrcoc_verify.trial import (
    SPIKE,
    Attempt,
    Keep,
    Settings,
    attempt,
    joined,
    read_gates,
    settle,
    try_model,
)
from arrcoc_verify.verdict import GateResult, Outcome, Waiver

CLUSTERS = [f"c{i}" for i in range(24)]


def claim(name="knowing.one", measure=None, margin=1.0, **changed):
    return Claim(
        id=name, sentence="s", stage="knowing", kind="causes", operation="o", source="s",
        measure=measure or (lambda lab: strong()), margin=margin, **changed,
    )  # fmt: skip


def strong(mean=5.0):
    return Effects(values=mean + 0.1 * np.random.default_rng(1).standard_normal(24))


def settled(*attempts, settings=None, controls=None):
    return settle(list(attempts), CLUSTERS, settings or Settings(), controls).verdicts


@pytest.fixture(scope="module")
def lab():
    return Lab(analytic.model(), scenes("assert", per_cluster=1)[:3])


def test_a_failed_gate_makes_the_claims_that_name_it_invalid_and_no_other(lab):
    gates = [GateResult(id="g", sentence="s", stage="runtime", passed=False, reason="it leaks")]

    tied, free = attempt(claim(gates=("g",)), lab, gates), attempt(claim(), lab, gates)

    assert tied.outcome is Outcome.INVALID
    assert "it leaks" in tied.reason
    assert free.outcome is None


def test_an_error_in_the_model_is_invalid_and_never_a_verdict_on_the_claim(lab):
    def crash(lab):
        raise ZeroDivisionError("0/0")

    (verdict,) = settled(attempt(claim(measure=crash), lab, []))

    assert verdict.outcome is Outcome.INVALID
    assert "ZeroDivisionError: 0/0" in verdict.reason


def test_what_the_model_lacks_is_not_applicable(lab):
    def lacking(lab):
        raise NotApplicable("no tensions here")

    (verdict,) = settled(attempt(claim(measure=lacking), lab, []))

    assert (Outcome.NOT_APPLICABLE, "no tensions here") == (verdict.outcome, verdict.reason)


def test_a_gate_that_crashes_fails_with_the_reason(lab):
    def crash(lab):
        raise RuntimeError("device lost")

    gate = Gate(id="runtime.x", sentence="s", stage="runtime", read=crash)
    fine = Gate(
        id="runtime.y", sentence="s", stage="runtime", read=lambda lab: Reading(passed=True)
    )

    crashed, passed = read_gates([gate, fine], lab)

    assert crashed.passed is False
    assert "device lost" in crashed.reason
    assert passed.passed is True


def test_claims_share_one_error_rate():
    """A reading with p about .006 alone does not decide among twenty claims that show nothing."""
    weak = Effects(values=1 + 0.55 + np.random.default_rng(3).standard_normal(24))
    alone = settled(Attempt(claim=claim(), measured=weak))[0]
    noise = [
        Attempt(
            claim=claim(f"knowing.n{i}"),
            measured=Effects(values=1 + np.random.default_rng(i).standard_normal(24)),
        )
        for i in range(20)
    ]
    among = settled(Attempt(claim=claim(), measured=weak), *noise)[0]

    assert among.p_adjusted == pytest.approx(min(1.0, 21 * among.p_value), rel=0.2)
    assert alone.p_adjusted < among.p_adjusted


def test_holm_puts_every_verdict_back_in_its_own_place():
    strengths = [5.0, 0.0, 3.0, 0.0, 9.0]
    attempts = [
        Attempt(claim=claim(f"knowing.c{i}"), measured=strong(s)) for i, s in enumerate(strengths)
    ]

    outcomes = [v.outcome for v in settled(*attempts)]

    wanted = [Outcome.HOLDS if s > 1 else Outcome.REFUTED for s in strengths]
    assert wanted == outcomes


def test_a_control_that_was_not_run_or_missed_keeps_a_claim_from_holding():
    one = Attempt(claim=claim(), measured=strong())

    for state in ("missed", "not_run"):
        (verdict,) = settled(one, controls={"knowing.one": {"planted fault": state}})
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert state in verdict.reason
    (verdict,) = settled(one, controls={"knowing.one": {"planted fault": "fired"}})
    assert verdict.outcome is Outcome.HOLDS


def test_a_blind_check_may_not_say_that_nothing_happens():
    blind = Distances(values=np.full(24, 0.01), spiked=np.zeros(24))

    (verdict,) = settled(Attempt(claim=claim(), measured=blind))

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "missed" == verdict.controls[SPIKE]


def test_a_waiver_stands_beside_the_unchanged_verdict():
    waiver = Waiver(claim="knowing.one", reason="known", author="someone", expires="2999-01-01")

    (verdict,) = settled(
        Attempt(claim=claim(), measured=strong(0.0)), settings=Settings(waivers=(waiver,))
    )

    assert (Outcome.REFUTED, waiver) == (verdict.outcome, verdict.waiver)


def test_no_reading_is_lost_without_a_word():
    (verdict,) = settled(Attempt(claim=claim()))

    assert verdict.outcome is Outcome.NOT_RUN


@pytest.mark.parametrize(
    "measured",
    [
        Effects(values=np.arange(4.0), placebos=np.ones(4), exercise={"a": 1}, numbers={"x": 2.0}),
        Distances(values=np.arange(4.0), spiked=np.ones(4)),
        Contract(broken=np.array([0.0, 1.0]), cases=7, exercise={"ties": 3}),
    ],
)
def test_kept_readings_come_back_as_they_were(tmp_path, measured):
    keep = Keep(tmp_path, "key")
    one = claim()
    keep.put(Attempt(claim=one, measured=measured, seconds=1.5), 0)

    back = keep.get(one, 0)

    for name in measured.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(measured, name), getattr(back.measured, name))
    assert 1.5 == back.seconds
    assert keep.get(one, 1) is None
    assert Keep(tmp_path, "another model").get(one, 0) is None


def test_a_torn_reading_is_made_again(tmp_path):
    keep = Keep(tmp_path, "key")
    keep.put(Attempt(claim=claim(), measured=strong()), 0)
    file = next(tmp_path.glob("*.json"))
    file.write_text(file.read_text()[:40])

    assert keep.get(claim(), 0) is None


def test_parts_join_to_the_whole():
    values = np.arange(6.0)
    parts = [
        Attempt(claim=claim(), measured=Effects(values=values[:4], exercise={"met": 1}), seconds=1),
        Attempt(claim=claim(), measured=Effects(values=values[4:], exercise={"met": 2}), seconds=2),
    ]

    whole = joined(parts)

    np.testing.assert_array_equal(values, whole.measured.values)
    assert ({"met": 3}, 3) == (whole.measured.exercise, whole.seconds)
    stuck = Attempt(claim=claim(), outcome=Outcome.INVALID, reason="one part crashed")
    assert stuck is joined([parts[0], stuck])


def test_measuring_in_blocks_changes_no_reading(monkeypatch):
    made = scenes("assert", per_cluster=1)[:6]
    model = analytic.model()
    from arrcoc_verify import suite, trial

    chosen = suite.select(["knowing.query-causes-tokens", "attending.tokens-in-range"])
    readings = []
    for size in (6, 2):
        monkeypatch.setattr(trial.blocks, "__defaults__", (size,))
        found = try_model(Lab(model, made), Lab(model, made), chosen, (), Settings())
        readings.append([found.judged[c.id].per_scene for c in chosen])

    for one, other in zip(*readings, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
