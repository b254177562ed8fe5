"""Rows of the matrix: letters, resuming, and what does not apply."""

import json
from dataclasses import asdict

from arrcoc_verify.faults import matrix
from arrcoc_verify.faults.matrix import Row, applicable, rows_of
from arrcoc_verify.verdict import Outcome, Verdict

CHEAP = "attending.tokens-are-whole"


def row(name, **letters):
    return Row(name=name, letters=letters, gates=(), seconds=0.0)


def verdict(outcome, failed=()):
    return Verdict(
        id="a.b", sentence="", stage="knowing", kind="causes", outcome=outcome, reason="",
        failed_gates=failed,
    )  # fmt: skip


def test_a_gate_and_a_crash_are_told_apart():
    assert "G" == matrix.letter(verdict(Outcome.INVALID, ("query.live",)))
    assert "e" == matrix.letter(verdict(Outcome.INVALID))
    assert "R" == matrix.letter(verdict(Outcome.REFUTED))


def test_a_crash_and_doubt_are_no_catch():
    found = row("x", one="R", two="G", three="e", four="i", five="h")
    assert {"one", "two"} == found.caught_by()
    assert {"one"} == found.refuted()


def test_what_says_nothing_of_the_sound_model_says_nothing_of_the_fault():
    rows = {
        "sound": row("sound", a="h", b="-"),
        "kept": row("kept", a="h", b="h"),
        "query-severed": row("query-severed", a="R", b="G"),
        "membership-off-by-one": row("membership-off-by-one", a="h", b="R"),
    }
    found = applicable(rows)
    assert {"a": "R", "b": "-"} == found["query-severed"]
    assert {"a": "h", "b": "R"} == found["membership-off-by-one"]


def test_rows_that_are_kept_are_not_made_again(tmp_path, monkeypatch):
    kept = row("tokens-truncated", **{CHEAP: "h"})
    (tmp_path / "tokens-truncated.json").write_text(json.dumps(asdict(kept)), encoding="utf-8")
    seen = []
    assert {"tokens-truncated": kept} == rows_of(["tokens-truncated"], tmp_path, done=seen.append)
    assert [kept] == seen


def test_half_a_row_is_made_again(tmp_path):
    (tmp_path / "sound.json").write_text('{"name": "so', encoding="utf-8")
    assert matrix._read(tmp_path, "sound") is None
