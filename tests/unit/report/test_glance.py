import pytest

from arrcoc_verify.report import glance
from arrcoc_verify.verdict import GateResult, Outcome, Verdict
from tests.unit.report.small_record import verdict

HOLDS, REFUTED = Outcome.HOLDS, Outcome.REFUTED


def test_nothing_refuted_is_no_fault() -> None:
    assert glance.first_fault([verdict(), verdict("knowing.two", Outcome.INCONCLUSIVE)]) is None


def test_the_first_stage_in_datas_order_is_named_however_claims_are_ordered() -> None:
    fault = glance.first_fault(
        [
            verdict("attending.late", REFUTED),
            verdict("balancing.wrong", REFUTED),
            verdict("balancing.right"),
            verdict("knowing.sound"),
            verdict("query.absent", Outcome.NOT_APPLICABLE),
        ]
    )
    assert fault is not None
    assert fault.stage == "balancing"
    assert ["balancing.wrong"] == [v.id for v in fault.refuted]
    assert ["balancing.right"] == [v.id for v in fault.holding]
    assert ["query", "knowing"] == list(fault.before)
    assert fault.sound
    assert ["attending"] == list(fault.later)


@pytest.mark.parametrize("outcome", [Outcome.INCONCLUSIVE, Outcome.INVALID, Outcome.NOT_RUN])
def test_stages_before_the_fault_are_not_called_sound_unless_shown(outcome: Outcome) -> None:
    fault = glance.first_fault([verdict(outcome=outcome), verdict("balancing.wrong", REFUTED)])
    assert fault is not None
    assert not fault.sound


def test_a_stage_beside_the_flow_comes_last_and_has_none_before_it() -> None:
    both = [verdict("report.wrong", REFUTED), verdict("attending.wrong", REFUTED)]
    fault = glance.first_fault(both)
    assert fault is not None
    assert ("attending", ["report"]) == (fault.stage, list(fault.later))
    alone = glance.first_fault([both[0], verdict("knowing.sound")])
    assert alone is not None
    assert ("report", []) == (alone.stage, list(alone.before))


def test_a_control_that_missed_or_did_not_run_is_counted_against_its_claim() -> None:
    verdicts: list[Verdict] = [
        verdict("knowing.one", controls={"spike": "fired", "sound": "silent"}),
        verdict("knowing.two", controls={"spike": "missed"}),
        verdict("knowing.three", controls={"spike": "not_run"}),
        verdict("knowing.four"),
    ]
    ends = glance.controls(verdicts)
    assert (2, 4) == (ends.right, ends.many)
    assert ["knowing.two", "knowing.three"] == [v.id for v in ends.missed]


@pytest.mark.parametrize(
    ("measured", "limit", "passed", "expected"),
    [
        (0.0, 1e-4, True, "at most"),
        (0.3, 1e-4, False, "at most"),
        (1.2, 1e-6, True, "at least"),
        (0.0, 1e-6, False, "at least"),
        (0.0, 0.0, True, "at most"),
        (0.0, 0.0, False, ""),
        (None, None, True, ""),
        (0.0, 1.0, None, ""),
    ],
)
def test_a_gates_result_tells_on_which_side_of_its_limit_it_had_to_lie(
    measured: float | None, limit: float | None, passed: bool | None, expected: str
) -> None:
    gate = GateResult(
        id="runtime.x", sentence="x", stage="runtime", passed=passed, measured=measured, limit=limit
    )
    assert expected == glance.bound(gate)
