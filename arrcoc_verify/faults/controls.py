"""Positive and negative controls of every built-in claim, kept with the code they were made by.

    python -m arrcoc_verify.faults.controls           show what the kept matrix says
    python -m arrcoc_verify.faults.controls --check   exit 1 unless it is current and complete
    python -m arrcoc_verify.faults.controls --write   try the suite on every fault, and keep it

A control whose code has changed since says "not_run": what was shown of other code counts nothing.
"""

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from arrcoc_verify.faults import matrix
from arrcoc_verify.faults.analytic import FAULTS
from arrcoc_verify.faults.matrix import CAUGHT
from arrcoc_verify.provenance import code_digest, files_digest
from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.scenes import fixtures
from arrcoc_verify.suite import CLAIMS

FILE = "controls.json"
NAMED = 3
"""Positive controls that a verdict names, of all that its claim has."""
SOUND = "sound model"
BESIDES = (
    "__init__.py", "__main__.py", "_fixtures", "_torchvision.py", "activations", "adapters",
    "audit.py", "capture.py", "cli", "config.py", "debug", "dictionary", "errors.py",
    "evidence.py", "experiment.py", "feature.py", "locating", "prepare.py", "provenance.py",
    "pytest_plugin", "reference/backbones", "reference/trained", "report", "saying.py",
    "suite/latents.py", "verdict.py", "faults/controls.py", "faults/oracle.py", "faults/selftest",
    "faults/split.py", "faults/twin.py", "stats/calibration.py",
)  # fmt: skip
"""Files and folders of the package on which no outcome depends; all others count."""
DATA = ("manifest.json", "analytic/lexicon.json")
"""Files of the fixtures on which it can."""


@functools.cache
def digest() -> str:
    """Return one digest of the code and data that decide what the controls say."""
    package, data = Path(__file__).resolve().parent.parent, fixtures.folder()
    code = [path for path in package.rglob("*.py") if not _beside(path.relative_to(package))]
    parts = [code_digest(code, package), files_digest([data / name for name in DATA], data)]
    return "+".join(part.removeprefix("sha256:")[:32] for part in parts)


def _beside(path: Path) -> bool:
    return any(path.is_relative_to(name) for name in BESIDES)


def load_controls() -> dict[str, dict[str, str]]:
    """Return claim id -> control -> "fired", "missed", "silent" or "not_run".

    Every state is "not_run" when the kept matrix was made by other code than is running, or when
    there is none.
    """
    kept = _read()
    if kept is None:
        return {claim.id: {SOUND: "not_run"} for claim in CLAIMS}
    if kept.get("digest") == digest():
        return {claim: dict(states) for claim, states in kept["controls"].items()}
    stale = {claim: dict.fromkeys(states, "not_run") for claim, states in kept["controls"].items()}
    return {claim.id: stale.get(claim.id, {SOUND: "not_run"}) for claim in CLAIMS}


def _read() -> dict[str, Any] | None:
    try:
        data = json.loads((fixtures.folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def states(rows: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the state of each claim's controls: the faults that least else catches, and health.

    Args:
        rows: fault or healthy variant -> claim id -> letter, as in the matrix.
    """
    found: dict[str, dict[str, str]] = {}
    faults = [fault.name for fault in FAULTS]
    noise = {name: sum(letter in CAUGHT for letter in rows[name].values()) for name in faults}
    for claim in rows["sound"]:
        caught = [name for name in faults if rows[name].get(claim) in CAUGHT]
        # Refuted says more than gated, and a fault that little else notices says most.
        caught.sort(key=lambda name: (rows[name][claim] != "R", noise[name], name))
        found[claim] = dict.fromkeys(caught[:NAMED], "fired") or {"any planted fault": "missed"}
        healthy = "kept" if rows["sound"].get(claim) == "-" else "sound"
        found[claim][SOUND] = "silent" if rows[healthy].get(claim) == "h" else "missed"
    return found


def write(folder: Path | None = None, workers: int = 2) -> Path:
    """Try the suite on every fault and healthy variant, and keep the matrix in the fixtures.

    Args:
        folder: where rows are kept until all are there; default is the user's cache.
        workers: processes.
    """
    cases = matrix.cases()
    rest = folder or Path(platformdirs.user_cache_dir("arrcoc-verify"), "controls", digest()[:16])
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*shown, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("faults", total=len(cases))

        def done(row: matrix.Row) -> None:
            progress.update(task, advance=1, description=row.name)

        rows = matrix.rows_of(cases, rest, workers=workers, done=done)
    path = fixtures.folder() / FILE
    write_text(path, _document(rows, cases))
    return path


def _document(rows: Mapping[str, Any], cases: Mapping[str, Any]) -> str:
    """Return the kept matrix as JSON, one line a claim and one a row."""
    claims = list(rows["sound"].letters)
    letters = matrix.applicable(rows)
    head = {
        "digest": digest(),
        "letters": "h holds, R refuted, G invalid by a gate, i inconclusive, e error, "
        "- not applicable",
        "population": {"role": "assert", "per_cluster": matrix.PER_CLUSTER},
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append(_block("controls", states(letters)))
    lines.append(f'"claims": {json.dumps(claims)}')
    table = {
        name: {
            "stage": getattr(cases[name], "stage", ""),
            "row": "".join(letters[name][claim] for claim in claims),
            "gates": list(row.gates),
        }
        for name, row in rows.items()
    }
    lines.append(_block("rows", table))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _block(name: str, entries: Mapping[str, Any]) -> str:
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
    inside = ",\n".join(lines)
    return f'"{name}": {{\n{inside}\n}}'


def problems() -> list[str]:
    """Return what is wrong with the kept matrix, in plain words; nothing when all is well."""
    kept = _read()
    if kept is None:
        return [f"there is no {FILE} in the fixtures: make it with --write"]
    found = []
    if kept["digest"] != digest():
        found.append("the code has changed since the matrix was made: make it again with --write")
    for claim, controls in kept["controls"].items():
        found += [f"{claim}: {name} missed" for name in controls if controls[name] == "missed"]
        if "fired" not in controls.values():
            found.append(f"{claim}: no fault is caught")
    columns = _columns(kept)
    for claim in columns:
        twins = [other for other in columns if other > claim and columns[other] == columns[claim]]
        found += [f"{claim} and {other} fail on the same faults" for other in twins]
    return found


def _columns(kept: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return claim id -> faults that it catches."""
    faults = {name: row["row"] for name, row in kept["rows"].items() if row["stage"]}
    return {
        claim: frozenset(name for name, row in faults.items() if row[index] in CAUGHT)
        for index, claim in enumerate(kept["claims"])
    }


def uncaught() -> list[str]:
    """Return the faults that no claim and no gate of the kept matrix notices."""
    kept = _read() or {"rows": {}}
    return [
        name
        for name, row in kept["rows"].items()
        if row["stage"] and not row["gates"] and not CAUGHT & set(row["row"])
    ]


def show(console: Console) -> None:
    """Print what the kept matrix says, claim by claim."""
    kept = _read()
    if kept is None:
        return
    columns = _columns(kept)
    table = Table("claim", "controls", "caught faults")
    for claim, controls in kept["controls"].items():
        said = ", ".join(f"{name} {state}" for name, state in controls.items())
        table.add_row(claim, said, str(len(columns[claim])))
    console.print(table)
    stages = Counter(row["stage"] for row in kept["rows"].values() if row["stage"])
    console.print(f"{stages.total()} faults: " + ", ".join(f"{n} {s}" for s, n in stages.items()))
    for name in uncaught():
        console.print(f"nothing notices {name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Show, check or write the controls; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(prog="python -m arrcoc_verify.faults.controls")
    parser.add_argument("--write", action="store_true", help="try the suite on every fault")
    parser.add_argument("--check", action="store_true", help="only say what is wrong")
    parser.add_argument("--rows", type=Path, help="folder in which rows are kept on the way")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    chosen = parser.parse_args(argv)
    console = Console()
    if chosen.write:
        console.print(f"kept in {write(chosen.rows, chosen.workers)}")
    if not chosen.check:
        show(console)
    wrong = problems()
    for line in wrong:
        console.print(line, markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
