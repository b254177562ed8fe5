"""The least that a record needs, for tests of one thing."""

from pathlib import Path

from arrcoc_verify.report.writer import Header, RecordWriter
from arrcoc_verify.verdict import Estimate, Outcome, Verdict

STARTED = "2025-01-02T03:04:05Z"
ENDED = "2025-01-02T03:05:05Z"


def header(**changed: object) -> Header:
    known: dict[str, object] = {
        "command": "arrcoc-verify audit",
        "subject": {"name": "model"},
        "data": {"digest": "sha256:0"},
        "config": {"alpha": 0.01},
        "environment": {},
        "seed": 1,
        "tool": {"name": "arrcoc-verify", "version": "1", "digest": "sha256:1"},
        "started_at": STARTED,
        "run_id": "run-1",
    }
    return Header(**{**known, **changed})  # type: ignore[arg-type]


def verdict(name: str = "knowing.one", outcome: Outcome = Outcome.HOLDS, **more: object) -> Verdict:
    known: dict[str, object] = {
        "sentence": "one causes the other",
        "stage": name.partition(".")[0],
        "kind": "causes",
        "reason": "it does",
    }
    return Verdict(id=name, outcome=outcome, **{**known, **more})  # type: ignore[arg-type]


def estimate(value: float, low: float, high: float, **changed: object) -> Estimate:
    known: dict[str, object] = {"level": 0.99, "n": 24, "unit": "tokens", "method": "bootstrap-t"}
    return Estimate(value=value, low=low, high=high, **{**known, **changed})  # type: ignore[arg-type]


def writer(folder: Path, **changed: object) -> RecordWriter:
    return RecordWriter(folder, header(**changed))


def finish(into: RecordWriter) -> tuple[str, int]:
    return into.finish(seconds=1.0, peak_mib=2.0, completed_at=ENDED)
