import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arrcoc_verify.errors import RecordError
from arrcoc_verify.report import event as ev
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.writer import RecordWriter
from arrcoc_verify.verdict import GateResult, Outcome
from tests.unit.report.small_record import finish, verdict, writer

GATE = GateResult(id="runtime.same", sentence="the same twice", stage="runtime", passed=True)


def test_a_finished_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_gate(GATE)
    into.add_claim(verdict(), np.array([1.0, np.nan]), ["a", "b"])
    assert ("holds", 0) == finish(into)
    record = Record.load(tmp_path / "record")
    assert (GATE,) == record.gates
    assert (verdict(),) == record.verdicts
    assert ("a", "b") == record.claims[0].unit_names
    np.testing.assert_array_equal([1.0, np.nan], record.array(record.claims[0].units))
    assert record.finished


def test_a_run_says_started_until_it_ends(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    run = json.loads((tmp_path / "record" / "run.json").read_text())
    assert ("started", None, None) == (run["status"], run["outcome"], run["exit_code"])
    assert not Record.load(tmp_path / "record").finished


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    writer(tmp_path / "record")
    with pytest.raises(RecordError, match="already holds a record: resume it"):
        writer(tmp_path / "record")


def test_a_claim_has_one_verdict_and_a_gate_one_result(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    into.add_gate(GATE)
    with pytest.raises(RecordError, match="already has a verdict"):
        into.add_claim(verdict(outcome=Outcome.REFUTED))
    with pytest.raises(RecordError, match="already has a result"):
        into.add_gate(GATE)


def test_equal_arrays_are_kept_once_under_the_digest_of_their_file(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    first = into.put_array(np.ones((3, 4)))
    assert first == into.put_array(np.ones((3, 4)))
    assert first != into.put_array(np.ones((4, 3)))
    assert 2 == len(list((tmp_path / "record" / "arrays").iterdir()))


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="real numbers is wanted, not of object"):
        writer(tmp_path / "record").put_array(np.array([{}]))


def test_a_picture_is_made_small_and_its_size_kept(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    picture = Image.new("RGBA", (1000, 500), "red")
    sha = into.put_image(picture)
    assert sha == into.put_image(picture)
    finish(into)
    record = Record.load(tmp_path / "record")
    assert (ev.Image(sha=sha, width=1000, height=500),) == record.of(ev.Image)
    with Image.open(tmp_path / "record" / "images" / f"{sha}.webp") as kept:
        assert (256, 128) == kept.size


def test_units_without_a_name_each_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"1 names for units of shape \(2,\)"):
        writer(tmp_path / "record").add_claim(verdict(), np.ones(2), ["a"])


def test_a_run_that_lost_a_planned_claim_cannot_finish(tmp_path: Path) -> None:
    into = writer(tmp_path / "record", planned=("knowing.one", "knowing.two"))
    into.add_claim(verdict())
    with pytest.raises(RecordError, match=r"1 planned claims have no verdict \(knowing.two\)"):
        finish(into)
    into.interrupt()
    assert ("knowing.two",) == Record.load(tmp_path / "record").missing


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    into = writer(tmp_path / "record", planned=("knowing.one", "knowing.two"))
    into.add_gate(GATE)
    into.add_claim(verdict())
    again = RecordWriter.resume(tmp_path / "record")
    assert frozenset({"knowing.one"}) == again.done_claims
    assert frozenset({"runtime.same"}) == again.done_gates
    again.add_claim(verdict("knowing.two"))
    assert ("holds", 0) == finish(again)
    record = Record.load(tmp_path / "record")
    assert ["knowing.one", "knowing.two"] == [v.id for v in record.verdicts]
    assert "run-1" == record.run["run_id"]


def test_a_torn_last_line_is_dropped_and_said(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    results = tmp_path / "record" / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole + b'{"event":"claim","seq":1,"verd')
    with pytest.raises(RecordError, match=r"last line of results.jsonl is torn \(30 bytes\)"):
        Record.load(tmp_path / "record")
    again = RecordWriter.resume(tmp_path / "record")
    finish(again)
    record = Record.load(tmp_path / "record")
    assert results.read_bytes().startswith(whole)
    assert ["resumed; a torn last line of 30 bytes was dropped"] == [
        note.text for note in record.of(ev.Note)
    ]


def test_an_ended_run_cannot_be_resumed(tmp_path: Path) -> None:
    finish(writer(tmp_path / "record"))
    with pytest.raises(RecordError, match="has ended"):
        RecordWriter.resume(tmp_path / "record")


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run to resume"):
        RecordWriter.resume(tmp_path)


def test_an_exception_marks_the_run_as_interrupted(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    with pytest.raises(ZeroDivisionError), into:
        print(1 // 0)
    run = Record.load(tmp_path / "record").run
    assert ("interrupted", 1) == (run["status"], run["counts"]["recorded"])
    assert frozenset({"knowing.one"}) == RecordWriter.resume(tmp_path / "record").done_claims


def test_a_full_disk_loses_no_line_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict())
    before = (tmp_path / "record" / "results.jsonl").read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match="No space left on device; the disk is full"):
            into.add_claim(verdict("knowing.two"))
        with pytest.raises(RecordError, match="the disk is full"):
            into.put_array(np.ones(3))
    assert before == (tmp_path / "record" / "results.jsonl").read_bytes()
    assert [] == list((tmp_path / "record" / "arrays").iterdir())
    into.add_claim(verdict("knowing.two"))
    assert ("holds", 0) == finish(into)
    assert 2 == len(Record.load(tmp_path / "record").verdicts)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="a file stands where a folder is wanted"):
        writer(tmp_path / "file")


def test_an_empty_run_is_not_green(tmp_path: Path) -> None:
    assert ("not_run", 2) == finish(writer(tmp_path / "record"))


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    into = writer(tmp_path / "record")
    into.add_claim(verdict(numbers={"largest": float("inf")}, seconds=float("nan")))
    finish(into)
    read = Record.load(tmp_path / "record").verdicts[0]
    assert float("inf") == read.numbers["largest"]
    assert read.seconds != read.seconds
