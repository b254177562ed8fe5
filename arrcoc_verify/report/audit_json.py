"""A run in short, as JSON for those who check from outside; its schema is `schema/audit.json`."""

from pathlib import Path
from typing import Any

from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Verdict, to_json


def audit_json(record: Record, report: Path | str | None = None) -> dict[str, Any]:
    """Return what `audit --json` writes.

    Args:
        record: as `Record.load` returns it.
        report: path of the page made from it; None when there is none.
    """
    return {
        "model": str(record.run["subject"]["name"]),
        "claims": [_claim(verdict) for verdict in record.verdicts],
        "gates": [
            {"id": gate.id, "passed": gate.passed, "reason": gate.reason} for gate in record.gates
        ],
        "report": None if report is None else str(report),
        "seconds": to_json(record.run["seconds"]),
        "peak_mib": to_json(record.run["peak_mib"]),
    }


def _claim(verdict: Verdict) -> dict[str, Any]:
    effect = verdict.effect
    return {
        "id": verdict.id,
        "stage": verdict.stage,
        "verdict": verdict.outcome.value,
        "effect": None if effect is None else to_json(effect.value),
        "interval": None if effect is None else to_json([effect.low, effect.high]),
        "n": verdict.n,
        "reason": verdict.reason,
    }
