"""Every claim has a planted fault that it catches, and stays silent on the sound model."""

import json

import pytest

from arrcoc_verify import suite
from arrcoc_verify.faults import controls, matrix
from arrcoc_verify.faults.analytic import FAULTS, fault
from arrcoc_verify.faults.controls import SOUND, load_controls, problems, states
from arrcoc_verify.faults.healthy import VARIANTS
from arrcoc_verify.scenes import fixtures

SLICE = (
    "knowing.query-finds-the-asked", "knowing.query-features-carry-the-score",
    "balancing.*-favours-its-scorer", "balancing.reported-*-are-applied",
    "attending.tokens-in-range", "attending.total-is-conserved",
)  # fmt: skip
CLAIMS = {claim.id: claim for claim in suite.select(SLICE)}
REFUTED = {
    "tension-flipped:focus": "balancing.focus-favours-its-scorer",
    "budget-not-conserved": "attending.total-is-conserved",
    "report-constant:weights": "balancing.reported-weights-are-applied",
    "score-around-features:query_relevance": "knowing.query-features-carry-the-score",
}
GATED = {"query-severed": "query.live", "relevance-batch-min-max": "runtime.batch-invariance"}


def tried(name):
    return matrix.row_of(matrix.cases()[name], SLICE)


def test_the_sound_model_is_silent():
    row = tried("sound")
    assert dict.fromkeys(CLAIMS, "h") == dict(row.letters)
    assert () == row.gates


@pytest.mark.parametrize(("name", "claim"), REFUTED.items())
def test_a_fault_is_refuted_by_the_claim_it_breaks_and_at_its_stage(name, claim):
    row = tried(name)
    assert {claim} == row.refuted()
    assert {claim} == row.caught_by()
    assert fault(name).stage == CLAIMS[claim].stage
    assert () == row.gates


@pytest.mark.parametrize(("name", "gate"), GATED.items())
def test_a_fault_that_voids_readings_stops_at_its_gate(name, gate):
    row = tried(name)
    assert gate in row.gates
    behind = {claim.id for claim in CLAIMS.values() if gate in claim.gates}
    assert behind == {claim for claim, letter in row.letters.items() if letter == "G"}
    assert behind >= {"knowing.query-finds-the-asked"}
    assert frozenset() == row.refuted()


def test_the_kept_matrix_is_current_and_complete():
    assert [] == problems()
    kept = json.loads((fixtures.folder() / controls.FILE).read_text(encoding="utf-8"))
    assert {case.name for case in (*FAULTS, *VARIANTS)} == set(kept["rows"])
    assert [claim.id for claim in suite.CLAIMS] == kept["claims"]


def test_no_healthy_variant_raises_an_alarm_in_the_kept_matrix():
    kept = json.loads((fixtures.folder() / controls.FILE).read_text(encoding="utf-8"))
    alarms = {
        variant.name: set(kept["rows"][variant.name]["row"]) & set("RGe") for variant in VARIANTS
    }
    assert {} == {name: letters for name, letters in alarms.items() if letters}
    assert {} == {one.name: kept["rows"][one.name]["gates"] for one in VARIANTS
                  if kept["rows"][one.name]["gates"]}  # fmt: skip


def test_every_claim_has_controls_that_fired_and_a_sound_model_that_is_silent():
    loaded = load_controls()
    assert {claim.id for claim in suite.CLAIMS} == set(loaded)
    for claim, found in loaded.items():
        assert "fired" in found.values(), claim
        assert "silent" == found[SOUND], claim
        assert {"fired", "silent"} >= set(found.values()), claim


@pytest.fixture
def other_code(monkeypatch, tmp_path):
    """A kept matrix whose digest is another one."""
    entries = {claim.id: {"planted": "fired", SOUND: "silent"} for claim in suite.CLAIMS}
    kept = {"digest": "of other code", "controls": entries, "claims": [], "rows": {}}
    (tmp_path / controls.FILE).write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setattr(controls.fixtures, "folder", lambda: tmp_path)
    monkeypatch.setattr(controls, "digest", lambda: "of this code")


def test_controls_of_other_code_were_not_run(other_code):
    loaded = load_controls()
    assert {claim.id for claim in suite.CLAIMS} == set(loaded)
    assert {"not_run"} == {state for found in loaded.values() for state in found.values()}
    assert any("has changed" in line for line in problems())


def test_without_a_kept_matrix_no_control_was_run(monkeypatch):
    monkeypatch.setattr(controls, "FILE", "no such file.json")
    assert {"not_run"} == {state for found in load_controls().values() for state in found.values()}
    assert any("--write" in line for line in problems())


def test_code_that_decides_changes_the_digest_and_prose_does_not(monkeypatch, tmp_path):
    (tmp_path / "claim.py").write_text('"""Say."""\nMARGIN = 1\n', encoding="utf-8")
    before = controls.code_digest([tmp_path / "claim.py"], tmp_path)
    (tmp_path / "claim.py").write_text('"""Say more."""\n# why\nMARGIN = 1\n', encoding="utf-8")
    assert before == controls.code_digest([tmp_path / "claim.py"], tmp_path)
    (tmp_path / "claim.py").write_text('"""Say."""\nMARGIN = 2\n', encoding="utf-8")
    assert before != controls.code_digest([tmp_path / "claim.py"], tmp_path)


def made(**letters):
    """Rows in which each fault is silent on the claims `a` and `b` but where letters are given."""
    rows = {one.name: {"a": "h", "b": "h"} for one in (*FAULTS, *VARIANTS)}
    for name, row in letters.items():
        rows[name.replace("_", "-")] = dict(zip("ab", row, strict=True))
    return rows


def test_named_controls_are_those_that_least_else_catches_and_refuted_come_first():
    rows = made(tokens_pop="RR", tokens_truncated="Rh", query_severed="Gh")
    found = states(rows)
    assert ["tokens-truncated", "tokens-pop", "query-severed", SOUND] == list(found["a"])
    assert {"tokens-pop": "fired", SOUND: "silent"} == found["b"]


def test_a_claim_that_catches_nothing_has_a_missed_control():
    found = states(made(tokens_pop="Rh"))
    assert "missed" in found["b"].values()


def test_an_alarm_on_the_sound_model_is_no_silence():
    rows = made(tokens_pop="RR", sound="Rh")
    assert "missed" == states(rows)["a"][SOUND]
    assert "silent" == states(rows)["b"][SOUND]


@pytest.mark.slow
def test_the_whole_matrix_comes_out_as_it_is_kept(tmp_path):
    kept = json.loads((fixtures.folder() / controls.FILE).read_text(encoding="utf-8"))
    rows = matrix.rows_of(matrix.cases(), tmp_path)
    letters = matrix.applicable(rows)
    assert {name: row["row"] for name, row in kept["rows"].items()} == {
        name: "".join(row[claim] for claim in kept["claims"]) for name, row in letters.items()
    }
