"""A record as JUnit XML: a suite for each stage, a test for each claim and gate.

Refuted and inconclusive claims and failed gates are failures, invalid ones and those that did not
run are errors, and a planned claim without a verdict is an error too: nothing that is missing can
look green. A waiver does not change the outcome; it is said in the message.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

from arrcoc_verify.report import text
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import STAGES, GateResult, Outcome, Verdict, to_json

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_ELEMENTS = {
    Outcome.REFUTED: "failure",
    Outcome.INCONCLUSIVE: "failure",
    Outcome.INVALID: "error",
    Outcome.NOT_RUN: "error",
    Outcome.NOT_APPLICABLE: "skipped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    stage: str
    name: str
    kind: str
    seconds: float
    element: str = ""
    outcome: str = ""
    message: str = ""
    detail: str = ""
    output: str = ""


def render_junit(record: Record) -> str:
    """Return a record as JUnit XML."""
    tests = [
        *(_gate(gate) for gate in record.gates),
        *(_claim(verdict) for verdict in record.verdicts),
        *(_missing(name) for name in record.missing),
    ]
    root = ET.Element("testsuites", {"name": "arrcoc-verify", **_totals(tests)})
    known = [stage for stage in STAGES if any(test.stage == stage for test in tests)]
    for stage in [*known, *sorted({test.stage for test in tests} - set(STAGES))]:
        here = [test for test in tests if test.stage == stage]
        suite = ET.SubElement(root, "testsuite", {"name": _xml(stage), **_totals(here)})
        suite.set("timestamp", str(record.run["started_at"]).removesuffix("Z"))
        for test in here:
            _add(suite, test)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _totals(tests: Iterable[_Test]) -> dict[str, str]:
    tests = list(tests)

    def count(element: str) -> str:
        return str(sum(test.element == element for test in tests))

    return {
        "tests": str(len(tests)),
        "failures": count("failure"),
        "errors": count("error"),
        "skipped": count("skipped"),
        "time": f"{sum(test.seconds for test in tests):.3f}",
    }


def _add(suite: ET.Element, test: _Test) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_xml(f"{test.kind}.{test.stage}"),
        name=_xml(test.name),
        time=f"{test.seconds:.3f}",
    )
    if test.element:
        end = ET.SubElement(case, test.element, message=_xml(test.message))
        if test.element != "skipped":
            end.set("type", test.outcome)
            end.text = _xml(test.detail)
    if test.output:
        ET.SubElement(case, "system-out").text = _xml(test.output)


def _claim(verdict: Verdict) -> _Test:
    waived = ""
    if verdict.waiver is not None:
        waived = f" (waived by {verdict.waiver.author} until {verdict.waiver.expires})"
    data = to_json(verdict)
    return _Test(
        stage=verdict.stage,
        name=verdict.id,
        kind="claim",
        seconds=verdict.seconds,
        element=_ELEMENTS.get(verdict.outcome, ""),
        outcome=verdict.outcome.value,
        message=f"{verdict.outcome.value}: {verdict.reason}{waived}",
        detail=detail(verdict),
        output=json.dumps(
            {key: data[key] for key in data if key != "worst"}, ensure_ascii=False, allow_nan=False
        ),
    )


def detail(verdict: Verdict) -> str:
    """Return a finding as lines, in the order in which every view says it."""
    worst = verdict.worst[0] if verdict.worst else None
    effect, null = verdict.effect, verdict.null
    lines = {
        "said": verdict.sentence,
        "measured": "nothing"
        if effect is None
        else f"{text.signed(effect.value)} {text.interval(effect)} {effect.unit} "
        f"({text.level(effect.level)} {effect.method}, n = {verdict.n}), "
        f"margin {text.number(verdict.margin)}",
        "null": "none" if null is None else f"{text.signed(null.value)} {text.interval(null)}",
        "stage": f"{verdict.stage}; {verdict.operation}",
        "worst": "none kept"
        if worst is None
        else f"{worst.id} {worst.scene}, {worst.query!r}: {text.signed(worst.effect)}",
        "replay": worst.replay if worst is not None and worst.replay else "repeat the run",
    }
    return "\n".join(f"{key:<9} {value}" for key, value in lines.items())


def _gate(gate: GateResult) -> _Test:
    element = {True: "", False: "failure", None: "skipped"}[gate.passed]
    bound = f"measured {text.number(gate.measured)}, limit {text.number(gate.limit)} {gate.unit}"
    return _Test(
        stage=gate.stage,
        name=gate.id,
        kind="gate",
        seconds=0.0,
        element=element,
        outcome="gate_failed",
        message=gate.reason or gate.sentence,
        detail=f"{gate.sentence}\n{bound}",
    )


def _missing(name: str) -> _Test:
    stage = name.partition(".")[0]
    return _Test(
        stage=stage if stage in STAGES else "report",
        name=name,
        kind="claim",
        seconds=0.0,
        element="error",
        outcome=Outcome.NOT_RUN.value,
        message="not_run: planned, but the run stopped before it had a verdict",
    )


def _xml(value: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return _NOT_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", value)
