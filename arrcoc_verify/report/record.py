"""A run's record, read: a folder of data from which every view is made.

    run.json               what was examined, by what, how it ended; rewritten whole, never torn
    results.jsonl          one event a line, only ever appended to
    arrays/<sha256>.npz    one array each, named by the digest of the file
    images/<sha256>.webp   one small picture each, named likewise

`writer.py` writes it. Reading checks that it adds up: counts, exit code, numbering of lines,
digests of every file. Pickles are never read.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from arrcoc_verify.errors import RecordError
from arrcoc_verify.report import event as ev
from arrcoc_verify.report.atomic import sha256
from arrcoc_verify.verdict import Case, GateResult, Outcome, Suspect, Verdict, exit_code

SCHEMA = "urn:arrcoc-verify:schema:run:1"
"""Name of the schema of `run.json`; its last part is the major version."""

VERSION = "1.0"
"""Version of the schema; readers of 1.x read every 1.y."""

RUN = "run.json"
RESULTS = "results.jsonl"
ARRAYS = "arrays"
IMAGES = "images"

E = TypeVar("E", bound=ev.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything a run wrote.

    Attributes:
        folder: where it lies.
        run: the content of `run.json`.
        events: the lines of `results.jsonl` in order, without kinds a later version added.
        problems: what does not add up; empty for a sound record.
        digest: `sha256:` over run.json and results.jsonl, to quote the record by.
    """

    folder: Path
    run: Mapping[str, Any]
    events: Sequence[ev.Event]
    problems: Sequence[str] = ()
    digest: str = ""
    _files: Mapping[str, Path] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, folder: Path | str, *, strict: bool = True) -> "Record":
        """Return the record in a folder.

        Raises RecordError when it cannot be read, or, if `strict`, when anything in it does not add
        up; otherwise `problems` says what, and the page shows it.
        """
        folder = Path(folder)
        run_bytes = _read(folder / RUN)
        lines = _read(folder / RESULTS)
        run = _run_from_json(run_bytes, folder / RUN)
        problems = list(_line_problems(run, lines))
        events, torn = _events(lines)
        problems += torn
        files = _files(folder)
        problems += _file_problems(files, events)
        problems += _count_problems(run, events)
        if strict and problems:
            listing = "\n  ".join(problems)
            raise RecordError(f"the record {folder} does not add up:\n  {listing}")
        digest = f"sha256:{sha256(sha256(run_bytes).encode() + sha256(lines).encode())}"
        return cls(
            folder=folder,
            run=run,
            events=tuple(events),
            problems=tuple(problems),
            digest=digest,
            _files=files,
        )

    def of(self, kind: type[E]) -> tuple[E, ...]:
        """Return the events of one class, in order."""
        return tuple(event for event in self.events if isinstance(event, kind))

    @property
    def claims(self) -> tuple[ev.Claim, ...]:
        """Every claim that was decided."""
        return self.of(ev.Claim)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict of every claim that was decided."""
        return tuple(claim.verdict for claim in self.claims)

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """Every gate's result."""
        return tuple(event.gate for event in self.of(ev.Gate))

    @property
    def suspect(self) -> Suspect | None:
        """Where experiments place the fault; None where nothing failed or none could be made."""
        return next(reversed(self.of(Suspect)), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Planned claims without a verdict: the run stopped before it came to them."""
        recorded = {verdict.id for verdict in self.verdicts}
        return tuple(name for name in self.run.get("planned", ()) if name not in recorded)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.run["status"] == "success")

    def case(self, case_id: str) -> tuple[Verdict, Case]:
        """Return a case and the verdict it belongs to; RecordError when there is none."""
        for verdict in self.verdicts:
            for case in verdict.worst:
                if case.id == case_id:
                    return verdict, case
        raise RecordError(f"no case {case_id!r} in the record {self.folder}")

    def array(self, sha: str) -> np.ndarray[Any, Any]:
        """Return an array by its digest; RecordError when it is not in the record or changed."""
        data = self._content(sha, "array")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as content:
                return np.asarray(content["array"])
        except (ValueError, KeyError, OSError) as error:
            raise RecordError(f"array {sha[:12]} cannot be read: {error}") from error

    def image(self, sha: str) -> bytes:
        """Return a picture's WebP bytes; RecordError when it is not in the record or changed."""
        return self._content(sha, "picture")

    def has(self, sha: str) -> bool:
        """Whether a file of this digest is there."""
        return sha in self._files

    def _content(self, sha: str, what: str) -> bytes:
        if sha not in self._files:
            raise RecordError(f"{what} {sha[:12]!r} is not in the record {self.folder}")
        data = _read(self._files[sha])
        if sha256(data) != sha:
            raise RecordError(f"{what} {sha[:12]} was changed after it was written")
        return data


def counts(verdicts: Sequence[Verdict], collected: int) -> dict[str, int]:
    """Return how many claims ended in which way; `collected` is the number of the planned ones."""
    tally = Counter(verdict.outcome for verdict in verdicts)
    waived = sum(verdict.waiver is not None for verdict in verdicts)
    ends = {outcome.value: tally[outcome] for outcome in Outcome}
    return {"collected": collected, "recorded": len(verdicts), **ends, "waived": waived}


def overall(
    verdicts: Sequence[Verdict], today: str, gates: Sequence[GateResult] = ()
) -> tuple[str, int]:
    """Return the outcome of a whole run and its exit code; `today` is an ISO date (waivers)."""
    code = exit_code(verdicts, today, gates)
    if code != 2:
        return {0: "holds", 1: "refuted", 3: "inconclusive"}[code], code
    invalid = any(v.required and v.outcome is Outcome.INVALID for v in verdicts)
    invalid = invalid or any(gate.passed is False for gate in gates)
    return ("invalid" if invalid else "not_run"), code


def torn_tail(lines: bytes) -> int:
    """Return how many bytes at the end are not a whole line."""
    return len(lines) - (lines.rfind(b"\n") + 1)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RecordError(
            f"{path} does not exist: a record is a folder with {RUN} and {RESULTS}, as written by "
            "`arrcoc-verify audit --out FOLDER`"
        ) from None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error


def _run_from_json(data: bytes, path: Path) -> Mapping[str, Any]:
    try:
        run = json.loads(data)
    except ValueError as error:
        raise RecordError(f"{path} is not JSON: {error}") from error
    if not isinstance(run, dict) or not isinstance(run.get("schema"), str):
        raise RecordError(f"{path} is no record: its `schema` should be {SCHEMA!r}")
    if run["schema"] != SCHEMA:
        raise RecordError(
            f"{path} has schema {run['schema']!r}, this version reads {SCHEMA!r}: "
            "use the version that wrote it, which it names under `tool`"
        )
    plain = ev.finite(run)
    return plain if isinstance(plain, dict) else {}


def _events(lines: bytes) -> tuple[list[ev.Event], list[str]]:
    events: list[ev.Event] = []
    problems = []
    torn = torn_tail(lines)
    if torn:
        problems.append(f"the last line of {RESULTS} is torn ({torn} bytes): the run was killed")
    for number, line in enumerate(lines[: len(lines) - torn].splitlines()):
        try:
            data = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number + 1} of {RESULTS} is not JSON: {error}")
            continue
        if not isinstance(data, dict) or data.get("seq") != number:
            problems.append(f"line {number + 1} of {RESULTS} is not the one that was written there")
        if not isinstance(data, dict):
            continue
        try:
            event = ev.event_from_json(data)
        except RecordError as error:
            problems.append(str(error))
            continue
        if event is not None:
            events.append(event)
    return events, problems


def _line_problems(run: Mapping[str, Any], lines: bytes) -> Iterator[str]:
    written = run.get("results_sha256", "")
    if written and written != sha256(lines):
        yield f"{RESULTS} was changed after the run: its digest differs from the one in {RUN}"
    if run.get("status") == "success" and not written:
        yield f"{RUN} says that the run ended, but has no digest of {RESULTS}"


def _files(folder: Path) -> dict[str, Path]:
    kept = ((ARRAYS, ".npz"), (IMAGES, ".webp"))
    return {
        path.stem: path
        for name, suffix in kept
        for path in sorted((folder / name).glob(f"*{suffix}"))
    }


def _file_problems(files: Mapping[str, Path], events: Sequence[ev.Event]) -> Iterator[str]:
    for sha, path in files.items():
        if sha256(_read(path)) != sha:
            yield f"{path.parent.name}/{path.name} was changed: its digest is not its name"
    for owner, sha in _references(events):
        if sha not in files:
            yield f"{owner} refers to {sha[:12]!r}, which is not in the record"


def _references(events: Sequence[ev.Event]) -> Iterator[tuple[str, str]]:
    for event in events:
        if isinstance(event, ev.Image):
            yield "a picture", event.sha
        elif isinstance(event, ev.Features):
            tops = [top for row in event.rows for top in row.top if top.image]
            yield from ((f"a patch of {event.site}", top.image) for top in tops)
        elif isinstance(event, ev.Claim):
            yield from _claim_references(event)


def _claim_references(claim: ev.Claim) -> Iterator[tuple[str, str]]:
    if claim.units:
        yield claim.verdict.id, claim.units
    for case in claim.verdict.worst:
        for sha in (case.image, *case.maps.values()):
            if sha:
                yield f"case {case.id} of {claim.verdict.id}", sha


def _count_problems(run: Mapping[str, Any], events: Sequence[ev.Event]) -> Iterator[str]:
    verdicts = [event.verdict for event in events if isinstance(event, ev.Claim)]
    names = Counter(verdict.id for verdict in verdicts)
    for name, times in names.items():
        if times > 1:
            yield f"claim {name} has {times} verdicts"
    if run.get("status") != "success":
        return
    written = run.get("counts", {})
    for key, value in counts(verdicts, written.get("collected", -1)).items():
        if written.get(key) != value:
            yield f"{RUN} counts {key} = {written.get(key)}, the events say {value}"
    ends = sum(written.get(outcome.value, 0) for outcome in Outcome)
    if written.get("collected") != ends:
        yield f"{written.get('collected')} claims were collected, {ends} have an outcome"
    gates = [event.gate for event in events if isinstance(event, ev.Gate)]
    outcome, code = overall(verdicts, str(run.get("completed_at", ""))[:10], gates)
    if (run.get("outcome"), run.get("exit_code")) != (outcome, code):
        said = f"{run.get('outcome')} (exit code {run.get('exit_code')})"
        yield f"{RUN} says {said}, its verdicts say {outcome} (exit code {code})"
