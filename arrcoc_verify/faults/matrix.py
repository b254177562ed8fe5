"""The fault x claim matrix: the whole suite on each faulty model, few scenes, same thresholds.

Rows are kept one file each, so that an interrupted run goes on where it was.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from arrcoc_verify import suite
from arrcoc_verify.faults.analytic import FAULTS
from arrcoc_verify.faults.attending import kept
from arrcoc_verify.faults.bench import SharedLab, Shelf
from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.healthy import KEPT, SOUND, VARIANTS, Healthy
from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.scenes import scenes
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.trial import Settings, try_model
from arrcoc_verify.verdict import Outcome, Verdict

PER_CLUSTER = 1
"""Scenes a cluster: the fewest at which the sound model holds on every claim."""

LETTERS = {
    Outcome.HOLDS: "h", Outcome.REFUTED: "R", Outcome.INCONCLUSIVE: "i",
    Outcome.INVALID: "e", Outcome.NOT_APPLICABLE: "-", Outcome.NOT_RUN: "n",
}  # fmt: skip
GATED = "G"
CAUGHT = frozenset("R" + GATED)
"""Letters that count as caught: refuted, or invalid by a gate; a crash is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the suite said of one model.

    Attributes:
        name: of the fault or healthy variant.
        letters: claim id -> one of `LETTERS`' values, or "G" for invalid by a gate.
        gates: ids of the gates that failed.
        seconds: wall time.
    """

    name: str
    letters: Mapping[str, str]
    gates: tuple[str, ...]
    seconds: float

    def caught_by(self) -> frozenset[str]:
        """Return the claims that say so: refuted, or invalid by a gate."""
        return frozenset(claim for claim, letter in self.letters.items() if letter in CAUGHT)

    def refuted(self) -> frozenset[str]:
        """Return the claims that are refuted."""
        return frozenset(claim for claim, letter in self.letters.items() if letter == "R")


def letter(verdict: Verdict) -> str:
    """Return the outcome of a verdict in one letter."""
    return GATED if verdict.failed_gates else LETTERS[verdict.outcome]


@cache
def _population(role: str, per_cluster: int, seed: int) -> tuple[Scene, ...]:
    return tuple(scenes(role, per_cluster=per_cluster, seed=seed))


@cache
def _shelf(seed: int) -> Shelf:
    del seed  # seeds share nothing
    return Shelf()


def row_of(
    case: Fault | Healthy, claims: Sequence[str] = ("*",), *, per_cluster: int = PER_CLUSTER
) -> Row:
    """Try the suite on one faulty or healthy model, without positive controls of course.

    Args:
        case: what to try.
        claims: shell patterns of claim ids; the default is all.
        per_cluster: scenes of each cluster.
    """
    start = time.perf_counter()
    seed = case.seed if isinstance(case, Healthy) else 0
    settings = replace(Settings(), seed=seed, per_cluster=per_cluster)
    model, shelf = case.make(), _shelf(seed)
    asserted = SharedLab(model, _population("assert", per_cluster, seed), seed, shelf)
    selected = SharedLab(model, _population("select", 1, seed), seed, shelf)
    trial = try_model(asserted, selected, suite.select(claims), suite.GATES, settings)
    return Row(
        name=case.name,
        letters={verdict.id: letter(verdict) for verdict in trial.verdicts},
        gates=tuple(gate.id for gate in trial.gates if gate.passed is False),
        seconds=round(time.perf_counter() - start, 1),
    )


def applicable(rows: Mapping[str, Row]) -> dict[str, dict[str, str]]:
    """Return the letters of each row, with "-" where the claim says nothing of its sound model.

    A failed gate comes before the question whether a claim applies at all.
    """
    every = cases()

    def base(name: str) -> Mapping[str, str]:
        case = every[name]
        membership = case.sound is kept if isinstance(case, Fault) else name == KEPT.name
        return rows[KEPT.name if membership else SOUND.name].letters

    return {
        name: {
            claim: "-" if base(name)[claim] == "-" else letter
            for claim, letter in row.letters.items()
        }
        for name, row in rows.items()
    }


def cases() -> dict[str, Fault | Healthy]:
    """Return every fault and every healthy variant by name."""
    every: tuple[Fault | Healthy, ...] = (*VARIANTS, *FAULTS)
    return {case.name: case for case in every}


def _named_row(name: str, per_cluster: int) -> Row:
    torch.set_num_threads(1)
    return row_of(cases()[name], per_cluster=per_cluster)


def rows_of(
    names: Iterable[str],
    folder: Path,
    *,
    workers: int = 2,
    per_cluster: int = PER_CLUSTER,
    done: Callable[[Row], None] | None = None,
) -> dict[str, Row]:
    """Return one row a case, made in parallel; rows in `folder` are taken from there."""
    names = list(names)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {name: row for name in names if (row := _read(folder, name)) is not None}
    for row in rows.values():
        if done is not None:
            done(row)
    left = [name for name in names if name not in rows]
    spawn = multiprocessing.get_context("spawn")  # torch does not like to be forked
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        waiting = [pool.submit(_named_row, name, per_cluster) for name in left]
        try:
            for future in as_completed(waiting):
                row = future.result()
                write_text(_path(folder, row.name), json.dumps(asdict(row)))
                rows[row.name] = row
                if done is not None:
                    done(row)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: rows[name] for name in names}


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(':', '=')}.json"


def _read(folder: Path, name: str) -> Row | None:
    try:
        data = json.loads(_path(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Row(**{**data, "gates": tuple(data["gates"])})
