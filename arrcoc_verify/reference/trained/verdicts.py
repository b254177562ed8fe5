"""The verdicts that the built-in suite is expected to give the trained reference model.

    arrcoc-verify audit --model reference:trained --out reports/trained
    python -m arrcoc_verify.reference.trained.verdicts reports/trained

compares an audit with `verdicts.json` beside the weights; `--write` keeps the audit as the new
expectation. Every claim that does not hold needs a sentence there that says why.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from arrcoc_verify.errors import ArrcocError, RecordError
from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.report.record import Record
from arrcoc_verify.scenes import fixtures
from arrcoc_verify.verdict import Outcome

FILE = "trained/verdicts.json"
MODEL = "reference:trained"


def expected() -> dict[str, dict[str, str]]:
    """Return claim id -> `verdict` and, where it does not hold, `why`."""
    path = fixtures.folder() / FILE
    found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def given(folder: Path) -> dict[str, str]:
    """Return claim id -> verdict of an audit of the trained reference model.

    Raises:
        RecordError: it is no sound record, or one of another model.
    """
    record = Record.load(folder)
    spec = record.run["subject"]["spec"]
    if spec != MODEL:
        raise RecordError(f"wanted an audit of {MODEL}, {folder} is one of {spec}")
    failed = [gate.id for gate in record.gates if not gate.passed]
    if failed:
        raise RecordError(f"gates failed in {folder}: {', '.join(failed)}")
    return {verdict.id: verdict.outcome.value for verdict in record.verdicts}


def departures(found: Mapping[str, str], wanted: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield what differs, in plain words, and what lacks its reason."""
    for claim in sorted(found.keys() | wanted.keys()):
        here, there = found.get(claim, "not judged"), wanted.get(claim, {})
        if here != there.get("verdict", "not expected"):
            yield f"{claim}: {here}, expected {there.get('verdict', 'nothing')}"
        elif here != Outcome.HOLDS.value and not there.get("why"):
            yield f"{claim}: {here}, and nobody said why"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare or keep an audit's verdicts; the exit code is 1 when they differ."""
    parser = argparse.ArgumentParser(prog="python -m arrcoc_verify.reference.trained.verdicts")
    parser.add_argument("audit", type=Path, help="folder of an audit of reference:trained")
    parser.add_argument("--write", action="store_true", help="keep its verdicts; reasons stay")
    args = parser.parse_args(argv)
    try:
        found = given(args.audit)
    except ArrcocError as error:
        Console(stderr=True).print(str(error), markup=False)
        return 4
    path = fixtures.folder() / FILE
    wanted = expected() if path.is_file() else {}
    if args.write:
        wanted = {claim: _kept(verdict, wanted.get(claim, {})) for claim, verdict in found.items()}
        lines = (f" {json.dumps(c)}: {json.dumps(w)}" for c, w in sorted(wanted.items()))
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    differ = list(departures(found, wanted))
    said = "\n".join(differ) or f"{len(found)} verdicts as expected"
    Console().print(said, markup=False, highlight=False)
    return 1 if differ else 0


def _kept(verdict: str, before: Mapping[str, str]) -> dict[str, str]:
    if verdict == Outcome.HOLDS.value:
        return {"verdict": verdict}
    same = before.get("verdict") == verdict
    return {"verdict": verdict, "why": before.get("why", "") if same else ""}


if __name__ == "__main__":
    sys.exit(main())
