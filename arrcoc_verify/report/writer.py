"""Writing a record while the run goes: append-only, so that a killed run loses nothing.

`run.json` says `started` from before the first result until `finish` rewrites it, so a killed run
never looks finished. Lines are flushed to the disk one by one. Arrays and pictures are named by
their digest and written once.
"""

import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arrcoc_verify import provenance
from arrcoc_verify.errors import RecordError
from arrcoc_verify.report import event as ev
from arrcoc_verify.report.atomic import make_folder, sha256, write_bytes, write_error, write_text
from arrcoc_verify.report.record import (
    ARRAYS,
    IMAGES,
    RESULTS,
    RUN,
    SCHEMA,
    VERSION,
    Record,
    counts,
    overall,
    torn_tail,
)
from arrcoc_verify.verdict import GateResult, Verdict, to_json

PICTURE_WIDTH = 256
"""Pictures are kept at most this wide, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known before the first result.

    Attributes:
        command: the command that made the run, and makes it again.
        subject: name, spec, adapter, digest, declaration (object) of the model under test.
        data: name, digest, photographs, scenes, roles (role -> count).
        config: every resolved option.
        environment: as `provenance.environment()`.
        seed: the run's seed.
        planned: ids of all claims to be decided; a finished run has a verdict for each.
        tool: name, version, digest; None means this package.
        selftest: detection and false-alarm rates of the verifier itself; None: not measured yet.
        responsible: name and role of persons who answer for the run.
        started_at: ISO time in UTC; None means now.
        run_id: None makes one from the time.
    """

    command: str
    subject: Mapping[str, Any]
    data: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    seed: int
    planned: Sequence[str] = ()
    tool: Mapping[str, str] | None = None
    selftest: Mapping[str, Any] | None = None
    responsible: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    started_at: str | None = None
    run_id: str | None = None

    def to_run(self) -> dict[str, Any]:
        """Return the content of `run.json` at the start of a run."""
        started = self.started_at or provenance.now()
        stamp = started.replace("-", "").replace(":", "")
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "run_id": self.run_id or f"{stamp}-{secrets.token_hex(2)}",
            "status": "started",
            "started_at": started,
            "completed_at": None,
            "tool": to_json(self.tool or provenance.tool()),
            "invocation": {"command": self.command},
            "subject": to_json(self.subject),
            "data": to_json(self.data),
            "config": to_json(self.config),
            "environment": to_json(self.environment),
            "seed": self.seed,
            "planned": list(self.planned),
            "counts": None,
            "outcome": None,
            "exit_code": None,
            "seconds": None,
            "peak_mib": None,
            "selftest": to_json(self.selftest),
            "responsible": to_json(list(self.responsible)),
            "results_sha256": "",
        }


class RecordWriter:
    """Writes one run into one folder.

    Every method raises RecordError when the disk is full or the folder cannot be written; no
    half-written file or line is left behind. Use as a context manager: leaving it by an exception
    marks the run as interrupted.
    """

    def __init__(self, folder: Path | str, header: Header | None) -> None:
        """Start a record; RecordError when the folder already has one.

        Args:
            folder: made when it does not exist.
            header: what is known before the first result; None goes on with the run that is there,
                as `resume` does.
        """
        self.folder = Path(folder)
        self._seq = 0
        self._verdicts: dict[str, Verdict] = {}
        self._gates: dict[str, GateResult] = {}
        self._known: set[str] = set()
        if header is None:
            self._run = self._go_on()
            return
        if (self.folder / RUN).exists():
            raise RecordError(
                f"{self.folder} already holds a record: resume it, or choose another folder"
            )
        self._run = header.to_run()
        self._make_folders()
        write_bytes(self.folder / RESULTS, b"")
        self._write_run()

    @classmethod
    def resume(cls, folder: Path | str) -> "RecordWriter":
        """Open the record of a killed or interrupted run to go on with it.

        `done_claims` and `done_gates` say what need not run again. A torn last line is dropped and
        a note in the record says so. Raises RecordError when the run has ended or does not add up.
        """
        return cls(folder, None)

    def _go_on(self) -> dict[str, Any]:
        dropped = _drop_torn_line(self.folder)
        record = Record.load(self.folder)
        if record.finished:
            raise RecordError(
                f"the run in {self.folder} has ended: choose another folder for a new one"
            )
        self._seq = (self.folder / RESULTS).read_bytes().count(b"\n")
        self._verdicts = {verdict.id: verdict for verdict in record.verdicts}
        self._gates = {gate.id: gate for gate in record.gates}
        self._known = {image.sha for image in record.of(ev.Image)}
        self._run = {**to_json(record.run), "status": "started", "results_sha256": ""}
        self._make_folders()
        self._write_run()
        if dropped:
            text = f"resumed; a torn last line of {dropped} bytes was dropped"
            self.add(ev.Note(level="warning", text=text))
        return self._run

    def _make_folders(self) -> None:
        for folder in (self.folder, self.folder / ARRAYS, self.folder / IMAGES):
            make_folder(folder)

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and self._run["status"] == "started":
            self.interrupt()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self._run["run_id"])

    @property
    def done_claims(self) -> frozenset[str]:
        """Ids of the claims that have a verdict."""
        return frozenset(self._verdicts)

    @property
    def done_gates(self) -> frozenset[str]:
        """Ids of the gates that have a result."""
        return frozenset(self._gates)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Verdicts recorded so far, in order."""
        return tuple(self._verdicts.values())

    def add_gate(self, gate: GateResult) -> None:
        """Append a gate's result; RecordError when it has one."""
        if gate.id in self._gates:
            raise RecordError(f"gate {gate.id!r} already has a result in {self.folder}")
        self.add(ev.Gate(gate=gate))
        self._gates[gate.id] = gate

    def add_claim(
        self,
        verdict: Verdict,
        units: np.ndarray[Any, Any] | None = None,
        unit_names: Sequence[str] = (),
    ) -> None:
        """Append a verdict, with its effects unit by unit if given; RecordError when it has one.

        Args:
            verdict: the end of the claim.
            units: effect of each unit, `[unit]`, in the unit of the verdict's effect.
            unit_names: as many names, so that another run can be paired with this one.
        """
        if verdict.id in self._verdicts:
            raise RecordError(f"claim {verdict.id!r} already has a verdict in {self.folder}")
        if units is not None and np.shape(units) != (len(unit_names),):
            raise RecordError(
                f"claim {verdict.id!r}: {len(unit_names)} names for units of shape "
                f"{np.shape(units)}; one name for each unit is wanted"
            )
        sha = "" if units is None else self.put_array(units)
        self.add(ev.Claim(verdict=verdict, units=sha, unit_names=tuple(unit_names)))
        self._verdicts[verdict.id] = verdict

    def add(self, event: ev.Event) -> None:
        """Append any event: one line, on the disk before this returns."""
        data = ev.event_to_json(event, self._seq)
        line = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        _append(self.folder / RESULTS, line.encode() + b"\n")
        self._seq += 1

    def put_array(self, array: np.ndarray[Any, Any]) -> str:
        """Keep an array of real numbers of any shape and return its sha256; the same only once."""
        array = np.ascontiguousarray(array)
        if array.dtype.kind not in "fiub":
            raise RecordError(f"an array of real numbers is wanted, not of {array.dtype}")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, array=array)
        return self._put(ARRAYS, buffer.getvalue(), ".npz")

    def put_image(self, image: Image.Image) -> str:
        """Keep a picture, made at most 256 pixels wide, and return its sha256; the same only once.

        Regions of cases count in pixels of the picture as given: its size is recorded too.
        """
        width = min(image.width, PICTURE_WIDTH)
        height = max(1, round(image.height * width / image.width))
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, format="WEBP", quality=80, method=6)
        sha = self._put(IMAGES, buffer.getvalue(), ".webp")
        if sha not in self._known:
            self.add(ev.Image(sha=sha, width=image.width, height=image.height))
            self._known.add(sha)
        return sha

    def finish(
        self, *, seconds: float, peak_mib: float, completed_at: str | None = None
    ) -> tuple[str, int]:
        """End the run and return its outcome and exit code.

        Raises RecordError when a planned claim has no verdict: a lost result never looks green.
        """
        planned = self._run["planned"] or list(self._verdicts)
        lost = [name for name in planned if name not in self._verdicts]
        if lost:
            raise RecordError(
                f"{len(lost)} planned claims have no verdict ({', '.join(lost[:5])}): "
                "record them as not_run with a reason, or interrupt the run"
            )
        completed = completed_at or provenance.now()
        outcome, code = overall(self.verdicts, completed[:10], tuple(self._gates.values()))
        self._run.update(outcome=outcome, exit_code=code)
        self._end("success", completed, seconds, peak_mib)
        return outcome, code

    def interrupt(
        self, *, seconds: float = 0.0, peak_mib: float = 0.0, completed_at: str | None = None
    ) -> None:
        """Mark the run as interrupted: it can be resumed, and its page says what is missing."""
        self._end("interrupted", completed_at or provenance.now(), seconds, peak_mib)

    def _end(self, status: str, completed: str, seconds: float, peak_mib: float) -> None:
        collected = len(self._run["planned"] or self._verdicts)
        self._run.update(
            status=status,
            completed_at=completed,
            counts=counts(self.verdicts, max(collected, len(self._verdicts))),
            seconds=to_json(float(seconds)),
            peak_mib=to_json(float(peak_mib)),
            results_sha256=sha256((self.folder / RESULTS).read_bytes()),
        )
        self._write_run()

    def _write_run(self) -> None:
        text = json.dumps(self._run, ensure_ascii=True, allow_nan=False, indent=1)
        write_text(self.folder / RUN, text + "\n")

    def _put(self, kind: str, data: bytes, suffix: str) -> str:
        sha = sha256(data)
        path = self.folder / kind / f"{sha}{suffix}"
        if not path.exists():
            write_bytes(path, data)
        return sha


def _append(path: Path, line: bytes) -> None:
    """Append a line and flush it to the disk; on failure cut off what was half written."""
    try:
        with path.open("ab") as file:
            before = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, before)
                raise
    except OSError as error:
        raise write_error(path, error) from error


def _drop_torn_line(folder: Path) -> int:
    path = folder / RESULTS
    if not path.exists():
        raise RecordError(f"{path} does not exist: there is no run to resume in {folder}")
    data = path.read_bytes()
    torn = torn_tail(data)
    if torn:
        os.truncate(path, len(data) - torn)
    return torn
