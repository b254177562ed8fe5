"""An audit end to end on few claims: record, page, resumption, exit code."""

import dataclasses
import json

import pytest

from arrcoc_verify import audit, locating, trial
from arrcoc_verify.audit import Settings, run_audit, scene_set
from arrcoc_verify.errors import RecordError, UnknownName
from arrcoc_verify.faults.selftest import case
from arrcoc_verify.model import ClaimProfile
from arrcoc_verify.reference import analytic
from arrcoc_verify.report import event
from arrcoc_verify.report.audit_json import audit_json
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Outcome

CLAIMS = ("attending.total-is-conserved", "balancing.*-favours-its-scorer")


@pytest.fixture(scope="module")
def model():
    return analytic.model()


@pytest.fixture(scope="module")
def found(model):
    return scene_set(model, per_cluster=1)


def sound(**states):
    return lambda: states


@pytest.fixture(scope="module")
def done(model, found, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    return run_audit(model, found, Settings(claims=CLAIMS), out, controls=sound())


def test_the_sound_model_holds_and_exits_with_zero(done):
    assert 0 == done.exit_code
    assert {Outcome.HOLDS} == {verdict.outcome for verdict in done.verdicts}


def test_the_record_adds_up_and_says_what_was_examined(done, model):
    record = Record.load(done.folder)

    assert record.finished
    assert not record.problems
    assert model.digest == record.run["subject"]["digest"]
    assert {"assert": 22, "select": 16} == record.run["data"]["roles"]
    assert 4 == len(record.claims)
    assert all(claim.units for claim in record.claims)


def test_the_short_json_has_what_outsiders_read(done):
    data = json.loads(json.dumps(audit_json(Record.load(done.folder), done.report)))

    assert {"model", "claims", "gates", "report", "seconds", "peak_mib"} == set(data)
    keys = {"id", "stage", "verdict", "effect", "interval", "n", "reason"}
    assert all(keys == set(claim) for claim in data["claims"])
    assert {"holds"} == {claim["verdict"] for claim in data["claims"]}


def test_a_broken_model_is_placed_by_experiments_in_record_and_page(found, tmp_path):
    broken = case.faults(case.ANALYTIC)["map-flipped:mix"].make()
    done = run_audit(
        broken, found, Settings(claims=("balancing.relevance-*", "balancing.scores-*")),
        tmp_path / "run", controls=sound(),
    )  # fmt: skip

    record = Record.load(done.folder)
    assert done.exit_code == 1
    assert record.suspect == done.suspect
    assert done.suspect.stage == "balancing"
    assert "Experiments point to balancing" in (done.folder / "report.html").read_text()


def test_an_experiment_that_raises_leaves_the_audit_as_it_is(found, tmp_path, monkeypatch):
    def breaks(*_):
        raise ValueError("on odd pictures")

    monkeypatch.setattr(locating, "suspect", breaks)
    done = run_audit(
        analytic.model(), found, Settings(claims=CLAIMS), tmp_path / "run", controls=sound()
    )
    assert (0, None) == (done.exit_code, done.suspect)
    notes = [note.text for note in Record.load(done.folder).of(event.Note)]
    assert "where the fault lies could not be looked for: on odd pictures" in notes


def test_no_readings_are_left_beside_a_finished_record(done):
    assert not (done.folder / "readings").exists()


def test_an_interrupted_run_goes_on_where_it_was(model, found, done, tmp_path, monkeypatch):
    seen = []
    plain = trial.attempt

    def interrupted(claim, lab, gates):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(claim.id)
        return plain(claim, lab, gates)

    monkeypatch.setattr(trial, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_audit(model, found, Settings(claims=CLAIMS), tmp_path / "run", controls=sound())
    assert "interrupted" == Record.load(tmp_path / "run", strict=False).run["status"]
    again = []
    monkeypatch.setattr(
        trial,
        "attempt",
        lambda claim, lab, gates: again.append(claim.id) or plain(claim, lab, gates),
    )
    result = run_audit(
        model, found, Settings(claims=CLAIMS), tmp_path / "run", resume=True, controls=sound()
    )

    assert not set(seen) & set(again)
    assert [v.effect for v in done.verdicts] == [v.effect for v in result.verdicts]


def test_a_folder_with_a_record_is_not_overwritten(model, found, done):
    with pytest.raises(RecordError, match="already holds a record"):
        run_audit(model, found, Settings(claims=CLAIMS), done.folder, controls=sound())


def test_a_control_that_missed_keeps_the_exit_code_from_zero(model, found, tmp_path):
    missed = {"attending.total-is-conserved": {"independent rounding": "missed"}}

    result = run_audit(
        model, found, Settings(claims=CLAIMS[:1]), tmp_path / "run", controls=sound(**missed)
    )

    assert 3 == result.exit_code


def test_what_the_author_does_not_claim_is_shown_as_not_applicable(model, found, tmp_path):
    name = "balancing.focus-favours-its-scorer"
    profile = ClaimProfile(excluded={name: "focus spreads tokens in this design"})
    changed = dataclasses.replace(model, profile=profile)

    result = run_audit(changed, found, Settings(claims=(name,)), tmp_path / "run", controls=sound())

    assert Outcome.NOT_APPLICABLE == result.verdicts[0].outcome
    assert "focus spreads tokens" in result.verdicts[0].reason
    assert 2 == result.exit_code  # nothing ran, so nothing is green


def test_an_unknown_claim_leaves_no_folder_behind(model, found, tmp_path):
    with pytest.raises(UnknownName):
        run_audit(model, found, Settings(claims=("nothing.*",)), tmp_path / "run", controls=sound())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("grid", "size", "wanted"),
    [((16, 16), (256, 256), 256), ((14, 14), (224, 224), 224), ((24, 24), (224, 224), 216),
     ((7, 5), (224, 224), 210), ((4, 4), (100, 160), 160)],
)  # fmt: skip
def test_scenes_have_whole_cells_for_every_grid(model, grid, size, wanted):
    declared = dataclasses.replace(model.declaration, grid=grid, image_size=size)

    assert wanted == audit.scene_size(dataclasses.replace(model, declaration=declared))
