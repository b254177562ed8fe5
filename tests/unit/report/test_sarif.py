import json

import pytest

from arrcoc_verify.report.record import Record
from arrcoc_verify.report.sarif import render_sarif
from arrcoc_verify.verdict import Outcome


@pytest.fixture(scope="module")
def run(record: Record) -> dict:
    data = json.loads(render_sarif(record))
    assert data["version"] == "2.1.0"
    (only,) = data["runs"]
    return only


def test_there_is_one_result_for_each_claim_and_it_finds_its_rule(
    record: Record, run: dict
) -> None:
    rules = run["tool"]["driver"]["rules"]
    assert [v.id for v in record.verdicts] == [result["ruleId"] for result in run["results"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]


def test_only_what_failed_has_a_level(record: Record, run: dict) -> None:
    for verdict, result in zip(record.verdicts, run["results"], strict=True):
        failed = verdict.outcome is Outcome.REFUTED
        assert failed == (result["kind"] == "fail") == (result["level"] != "none")


def test_what_is_not_decided_is_open(record: Record, run: dict) -> None:
    opened = {r["properties"]["outcome"] for r in run["results"] if r["kind"] == "open"}
    assert {"inconclusive", "invalid", "not_run"} == opened


def test_a_waiver_is_a_suppression_beside_the_verdict(run: dict) -> None:
    (waived,) = [result for result in run["results"] if "suppressions" in result]
    assert ("balancing.self-report-true", "fail") == (waived["ruleId"], waived["kind"])
    assert "M. Ito" in waived["suppressions"][0]["justification"]


def test_fingerprints_differ_between_claims_and_not_between_runs(record: Record, run: dict) -> None:
    prints = [result["partialFingerprints"]["claimAndModel/v1"] for result in run["results"]]
    assert len(prints) == len(set(prints))
    again = json.loads(render_sarif(record))["runs"][0]["results"]
    assert prints == [result["partialFingerprints"]["claimAndModel/v1"] for result in again]


def test_the_invocation_says_how_it_went(run: dict) -> None:
    (invocation,) = run["invocations"]
    assert (True, 1) == (invocation["executionSuccessful"], invocation["exitCode"])
    (notification,) = invocation["toolExecutionNotifications"]
    assert "knowing.query-liveness failed" in notification["message"]["text"]
