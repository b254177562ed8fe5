import json
import re
from pathlib import Path

import numpy as np
import pytest

from arrcoc_verify.errors import RecordError
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import Outcome


def change(path: Path, pattern: str, new: str) -> None:
    text = path.read_text()
    assert re.search(pattern, text)
    path.write_text(re.sub(pattern, new, text, count=1))


def test_a_sound_record_adds_up(record: Record) -> None:
    counts = record.run["counts"]
    assert () == record.problems
    assert 60 == counts["collected"] == sum(counts[outcome.value] for outcome in Outcome)
    assert ("refuted", 1) == (record.run["outcome"], record.run["exit_code"])
    assert set(Outcome) == {verdict.outcome for verdict in record.verdicts}


@pytest.mark.parametrize(
    ("file", "pattern", "new", "said"),
    [
        ("results.jsonl", '"outcome":"refuted"', '"outcome":"holds"', "results.jsonl was changed"),
        ("results.jsonl", '"seq":3,', '"seq":4,', "line 4 of results.jsonl is not the one"),
        ("run.json", '"refuted": 5', '"refuted": 4', "counts refuted = 4, the events say 5"),
        ("run.json", '"collected": 60', '"collected": 61', "61 claims were collected, 60 have"),
        ("run.json", '"exit_code": 1', '"exit_code": 0', r"exit code 0\), its verdicts say"),
        ("run.json", '"results_sha256": "[0-9a-f]+"', '"results_sha256": ""', "has no digest"),
    ],
)
def test_tampering_is_said(folder: Path, file: str, pattern: str, new: str, said: str) -> None:
    change(folder / file, pattern, new)
    with pytest.raises(RecordError, match=said):
        Record.load(folder)
    problems = Record.load(folder, strict=False).problems
    assert any(re.search(said, problem) for problem in problems)


def test_a_changed_array_is_said_and_not_read(folder: Path) -> None:
    path = next((folder / "arrays").iterdir())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RecordError, match="its digest is not its name"):
        Record.load(folder)
    with pytest.raises(RecordError, match="was changed after it was written"):
        Record.load(folder, strict=False).array(path.stem)


def test_a_lost_picture_is_said_with_the_case_it_belonged_to(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(RecordError, match=r"case [0-9a-f]+ of .* refers to"):
        Record.load(folder)


def test_a_line_that_was_taken_out_is_said(folder: Path) -> None:
    path = folder / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20] + lines[21:]))
    problems = Record.load(folder, strict=False).problems
    assert any("line 21 of results.jsonl is not the one" in problem for problem in problems)


def test_a_pickle_is_never_read(folder: Path) -> None:
    from arrcoc_verify.report.atomic import sha256

    path = folder / "arrays" / "x.npz"
    np.savez(path, array=np.array([{}], dtype=object))
    sha = sha256(path.read_bytes())
    path.rename(path.with_name(f"{sha}.npz"))
    with pytest.raises(RecordError, match="cannot be read"):
        Record.load(folder).array(sha)


def test_a_line_that_is_no_json_is_said(folder: Path) -> None:
    path = folder / "results.jsonl"
    path.write_bytes(b"{]\n" + path.read_bytes())
    assert any(
        "line 1 of results.jsonl is not JSON" in problem
        for problem in Record.load(folder, strict=False).problems
    )


def test_an_event_of_a_later_version_is_passed_over(folder: Path) -> None:
    path = folder / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "status": "started", "results_sha256": "", "later": 1}))
    results = folder / "results.jsonl"
    many = results.read_bytes().count(b"\n")
    with results.open("a") as file:
        file.write(json.dumps({"event": "later", "seq": many}) + "\n")
    assert 60 == len(Record.load(folder).verdicts)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "is no record"),
        ("{", "is not JSON"),
        ('{"schema": "urn:arrcoc-verify:schema:run:9"}', "use the version that wrote it"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(RecordError, match=said):
        Record.load(tmp_path)


def test_an_empty_folder_is_refused_with_what_a_record_is(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"a record is a folder with run\.json"):
        Record.load(tmp_path)


def test_a_case_is_found_by_its_id(record: Record) -> None:
    wanted = next(v for v in record.verdicts if v.worst)
    assert (wanted, wanted.worst[0]) == record.case(wanted.worst[0].id)
    with pytest.raises(RecordError, match="no case 'none'"):
        record.case("none")


def test_the_digest_follows_the_content(made: Path, folder: Path) -> None:
    assert Record.load(made).digest == Record.load(folder).digest
    change(folder / "run.json", '"seed": 20251122', '"seed": 1')
    assert Record.load(made).digest != Record.load(folder).digest
