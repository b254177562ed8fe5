"""A record in which one text stands wherever a stranger could put one."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from arrcoc_verify.report import event as ev
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.writer import Header, RecordWriter

KEPT = ("sha", "units", "image", "maps", "outcome", "expires")
"""References to files and closed lists, which the reader checks before the page sees them."""


def make_hostile_record(made: Record, folder: Path, text: str, most: int) -> Record:
    """Write a copy of a record in which every free text is `text`; `most` events of a kind."""
    writer = RecordWriter(folder / "hostile", _header(made, text))
    for name in ("arrays", "images"):
        for path in (made.folder / name).iterdir():
            (folder / "hostile" / name / path.name).write_bytes(path.read_bytes())
    seen: dict[type, int] = {}
    for number, event in enumerate(made.events):
        seen[type(event)] = seen.get(type(event), 0) + 1
        if seen[type(event)] > most and not isinstance(event, ev.Image):
            continue
        spoiled = spoil(event, text)
        if isinstance(spoiled, ev.Claim):
            verdict = replace(spoiled.verdict, id=f"{text}{number}")
            spoiled = replace(spoiled, verdict=verdict)
        writer.add(spoiled)
    writer.interrupt(completed_at="2025-11-22T10:18:49Z")
    return Record.load(folder / "hostile")


def spoil(value: Any, text: str) -> Any:
    """Return data with every text, keys too, replaced, and lists cut to four items."""
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: spoil(getattr(value, field.name), text)
            for field in fields(value)
            if field.name not in KEPT
        }
        return replace(value, **changed)
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return text
    if isinstance(value, Mapping):
        return {f"{text}{i}": spoil(item, text) for i, item in enumerate(value.values())}
    if isinstance(value, tuple | list):
        return tuple(spoil(item, text) for item in value[:4])
    return value


def _header(made: Record, text: str) -> Header:
    run = made.run
    subject = {key: spoil(value, text) for key, value in run["subject"].items()}
    return Header(
        command=text,
        subject=subject,
        data={**spoil(run["data"], text), "name": text, "digest": text, "roles": {text: 1}},
        config=spoil(run["config"], text),
        environment=spoil(run["environment"], text),
        seed=1,
        planned=(text,),
        tool={"name": text, "version": text, "digest": text},
        selftest={"rates": [{"name": text, "share": 0.9, "low": 0.8, "high": 1.0, "n": 56}]},
        responsible=({"name": text, "role": text},),
        started_at=run["started_at"],
        run_id=text,
    )
