import json
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

from arrcoc_verify.errors import UnknownName
from arrcoc_verify.report import event as ev
from arrcoc_verify.report.audit_json import audit_json
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.schema import names, schema
from arrcoc_verify.verdict import Case, Estimate, GateResult, Verdict, Waiver
from tests.unit.report.small_record import writer


def check(data: object, name: str) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(data)


@pytest.mark.parametrize("name", ["audit", "event", "run"])
def test_the_schemas_are_sound(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_there_are_three() -> None:
    assert ("audit", "event", "run") == names()


def test_an_unknown_one_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'event'"):
        schema("events")


def test_a_written_record_follows_them(made: Path) -> None:
    check(json.loads((made / "run.json").read_text()), "run")
    for line in (made / "results.jsonl").read_text().splitlines():
        check(json.loads(line), "event")


def test_a_run_that_has_only_started_follows_them(tmp_path: Path) -> None:
    writer(tmp_path / "record")
    check(json.loads((tmp_path / "record" / "run.json").read_text()), "run")


def test_a_run_in_short_follows_its_schema(record: Record) -> None:
    check(audit_json(record, "page.html"), "audit")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Verdict, "verdict"),
        (Estimate, "estimate"),
        (Case, "case"),
        (Waiver, "waiver"),
        (GateResult, "gate_result"),
        (ev.Decomposition, "decomposition"),
        (ev.Effects, "effects"),
        (ev.Features, "features"),
        (ev.Isolation, "isolation"),
        (ev.Tension, "tension"),
        (ev.Sites, "sites"),
        (ev.Note, "note"),
        (ev.Image, "image"),
        (ev.Claim, "claim"),
    ],
)
def test_every_field_is_in_the_schema(kind: type, name: str) -> None:
    written = set(schema("event")["$defs"][name]["properties"]) - {"event", "seq"}
    assert {field.name for field in fields(kind)} == written


def test_every_kind_of_event_is_in_the_schema() -> None:
    listed = [entry["$ref"].rpartition("/")[2] for entry in schema("event")["oneOf"]]
    assert list(ev.EVENTS) == listed
