"""A record as SARIF 2.1.0 (OASIS): a rule and a result for each claim, never one for each case.

`kind` says how a claim ended: `pass`, `fail`, `open` (inconclusive, invalid or not run) or
`notApplicable`; only `fail` has a level other than `none`, as the standard asks. Waivers are
suppressions, beside the unchanged kind.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from arrcoc_verify.report import text
from arrcoc_verify.report.junit import detail
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import GateResult, Outcome, Verdict, to_json

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_KINDS = {
    Outcome.HOLDS: "pass",
    Outcome.REFUTED: "fail",
    Outcome.INCONCLUSIVE: "open",
    Outcome.INVALID: "open",
    Outcome.NOT_RUN: "open",
    Outcome.NOT_APPLICABLE: "notApplicable",
}


def render_sarif(record: Record) -> str:
    """Return a record as SARIF, JSON text."""
    return json.dumps(sarif(record), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def sarif(record: Record) -> dict[str, Any]:
    """Return a record as SARIF, JSON data."""
    run = record.run
    verdicts = record.verdicts
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": str(run["tool"]["name"]),
                        "version": str(run["tool"]["version"]),
                        "rules": [_rule(verdict) for verdict in verdicts],
                    }
                },
                "automationDetails": {"id": f"arrcoc-verify/{run['run_id']}"},
                "invocations": [_invocation(record)],
                "logicalLocations": [
                    {"name": stage, "kind": "stage"}
                    for stage in dict.fromkeys(verdict.stage for verdict in verdicts)
                ],
                "results": [_result(verdict, i, run) for i, verdict in enumerate(verdicts)],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _rule(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.id,
        "shortDescription": {"text": verdict.sentence},
        "fullDescription": {"text": f"{verdict.sentence} {verdict.operation}".strip()},
        "defaultConfiguration": {"level": "error" if verdict.required else "warning"},
    }


def _result(verdict: Verdict, index: int, run: Mapping[str, Any]) -> dict[str, Any]:
    kind = _KINDS[verdict.outcome]
    level = ("error" if verdict.required else "warning") if kind == "fail" else "none"
    key = f"{verdict.id}|{run['subject']['name']}".encode(errors="backslashreplace")
    result: dict[str, Any] = {
        "ruleId": verdict.id,
        "ruleIndex": index,
        "kind": kind,
        "level": level,
        "message": {"text": f"{verdict.outcome.value}: {verdict.reason}\n{detail(verdict)}"},
        "locations": [{"logicalLocations": [{"name": verdict.stage, "kind": "stage"}]}],
        "partialFingerprints": {"claimAndModel/v1": hashlib.sha256(key).hexdigest()},
        "properties": {
            "outcome": verdict.outcome.value,
            "effect": to_json(verdict.effect),
            "margin": to_json(verdict.margin),
            "n": verdict.n,
        },
    }
    if verdict.waiver is not None:
        words = f"{verdict.waiver.reason} ({verdict.waiver.author}, until {verdict.waiver.expires})"
        result["suppressions"] = [{"kind": "external", "justification": words}]
    return result


def _invocation(record: Record) -> dict[str, Any]:
    run = record.run
    invocation: dict[str, Any] = {
        "commandLine": str(run["invocation"]["command"]),
        "startTimeUtc": run["started_at"],
        "executionSuccessful": bool(record.finished and not record.problems),
        "toolExecutionNotifications": [
            *({"level": "error", "message": {"text": problem}} for problem in record.problems),
            *(_gate_notification(gate) for gate in record.gates if gate.passed is False),
            *(
                {"level": "error", "message": {"text": f"claim {name} has no verdict"}}
                for name in record.missing
            ),
        ],
    }
    if run["completed_at"] is not None:
        invocation["endTimeUtc"] = run["completed_at"]
    if run["exit_code"] is not None:
        invocation["exitCode"] = run["exit_code"]
    return invocation


def _gate_notification(gate: GateResult) -> dict[str, Any]:
    measured = f"measured {text.number(gate.measured)}, limit {text.number(gate.limit)}"
    words = f"gate {gate.id} failed: {gate.reason} ({measured})"
    return {"level": "error", "message": {"text": words}}
