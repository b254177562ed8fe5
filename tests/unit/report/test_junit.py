import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from arrcoc_verify.report.junit import render_junit
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Outcome
from tests.unit.report.small_record import finish, verdict, writer


def cases(record: Record) -> dict[str, ET.Element]:
    root = ET.fromstring(render_junit(record))
    return {case.get("name", ""): case for case in root.iter("testcase")}


def test_every_claim_and_gate_is_there_with_its_outcome(record: Record) -> None:
    found = cases(record)
    assert {v.id for v in record.verdicts} | {g.id for g in record.gates} == set(found)
    ends = {
        Outcome.HOLDS: None,
        Outcome.REFUTED: ("failure", "refuted"),
        Outcome.INCONCLUSIVE: ("failure", "inconclusive"),
        Outcome.INVALID: ("error", "invalid"),
        Outcome.NOT_RUN: ("error", "not_run"),
        Outcome.NOT_APPLICABLE: ("skipped", None),
    }
    for verdict_ in record.verdicts:
        case = found[verdict_.id]
        end = next(((e.tag, e.get("type")) for e in case if e.tag != "system-out"), None)
        assert ends[verdict_.outcome] == end


def test_counts_say_what_is_inside(record: Record) -> None:
    root = ET.fromstring(render_junit(record))
    for suite in [root, *root.iter("testsuite")]:
        inside = list(suite.iter("testcase"))
        assert int(suite.get("tests", "")) == len(inside)
        for attribute, tag in (
            ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"),
        ):  # fmt: skip
            many = sum(case.find(tag) is not None for case in inside)
            assert int(suite.get(attribute, "")) == many


def test_there_is_a_suite_for_each_stage(record: Record) -> None:
    root = ET.fromstring(render_junit(record))
    stages = {v.stage for v in record.verdicts} | {g.stage for g in record.gates}
    assert stages == {suite.get("name") for suite in root.iter("testsuite")}


def test_a_failure_is_read_in_one_order(record: Record) -> None:
    failure = cases(record)["query.paraphrase-bounded"].find("failure")
    assert failure is not None
    lines = (failure.text or "").splitlines()
    wanted = ["said", "measured", "null", "stage", "worst", "replay"]
    assert wanted == [line.split()[0] for line in lines]


def test_a_planned_claim_without_a_verdict_is_an_error(tmp_path: Path) -> None:
    into = writer(tmp_path / "record", planned=("knowing.one", "knowing.two"))
    into.add_claim(verdict())
    into.interrupt()
    case = cases(Record.load(tmp_path / "record"))["knowing.two"]
    error = case.find("error")
    assert error is not None
    assert error.get("type") == "not_run"


@pytest.mark.parametrize("text", ["]]></x>", "\0\x1b[31m", "\ufffe", "<&\"'>"])
def test_hostile_text_leaves_xml_sound(tmp_path: Path, text: str) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict(outcome=Outcome.REFUTED, reason=text, sentence=text))
    finish(into)
    assert ["knowing.one"] == list(cases(Record.load(tmp_path / "record")))


def test_a_waived_claim_still_fails_and_says_so(record: Record) -> None:
    failure = cases(record)["balancing.self-report-true"].find("failure")
    assert failure is not None
    assert "waived by M. Ito" in failure.get("message", "")
