"""Many cases over several processes; each result is a file, so a stopped run goes on."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arrcoc_verify.errors import RecordError
from arrcoc_verify.faults.selftest import case, kept
from arrcoc_verify.faults.selftest.case import Judged, Tried
from arrcoc_verify.provenance import json_digest
from arrcoc_verify.report.atomic import write_text

Done = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run.

    Attributes:
        spec: sound model.
        faults: names of faults.
        seeds: of scenes, for each fault.
        healthy: runs on healthy variants.
        jobs: processes.
        folder: where results are kept.
    """

    spec: str
    faults: tuple[str, ...]
    seeds: tuple[int, ...]
    healthy: int
    jobs: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What came out.

    Attributes:
        baseline: the sound model itself.
        audited: the same on as many scenes as an audit takes.
        faulty: one a fault and seed.
        healthy: one a variant and seed.
        judged: fault -> what the oracle says.
    """

    baseline: Tried
    audited: Tried
    faulty: tuple[Tried, ...]
    healthy: tuple[Tried, ...]
    judged: dict[str, Judged]

    @property
    def expected(self) -> frozenset[str]:
        """Claims and gates on which the sound model itself raises an alarm."""
        return unexpected(self.baseline, self.audited)


def unexpected(*sound: Tried) -> frozenset[str]:
    """Return claims and gates on which any of these runs of the sound model raises an alarm."""
    found: set[str] = set()
    for one in sound:
        found |= {claim for claim, letter in one.letters.items() if letter in case.ALARMS}
        found |= {*one.gates, *one.crashed}
    return frozenset(found)


def run(plan: Plan, done: Done) -> Results:
    """Run every case of a plan; what its folder holds already is taken from there.

    Raises:
        RecordError: the folder holds a run of other code or of another model.
    """
    _claim_folder(plan)
    baseline, audited = _sound(plan, case.PER_CLUSTER), _sound(plan, case.AUDITED)
    expected = unexpected(baseline, audited)
    jobs: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = []
    # Healthy cases come by seed, so that a process finds a seed's scenes where it left them.
    for one in case.variants(plan.spec, plan.healthy):
        arguments = (one.name, plan.spec, one.seed, expected)
        jobs.append((_key("healthy", one.name), case.try_variant, arguments))
    for name in plan.faults:
        jobs.append((_key("judged", name), case.judge_fault, (name, plan.spec)))
        for seed in plan.seeds:
            arguments = (name, plan.spec, seed, expected)
            jobs.append((_key("fault", f"{name} {seed}"), case.try_fault, arguments))
    found = _all(jobs, plan, done)
    judged = {name: Judged(**found[_key("judged", name)]) for name in plan.faults}
    return Results(
        baseline=baseline, audited=audited, judged=judged,
        faulty=tuple(
            tried_from(found[_key("fault", f"{name} {seed}")])
            for name in plan.faults for seed in plan.seeds
        ),
        healthy=tuple(
            tried_from(found[_key("healthy", one.name)])
            for one in case.variants(plan.spec, plan.healthy)
        ),
    )  # fmt: skip


def _claim_folder(plan: Plan) -> None:
    plan.folder.mkdir(parents=True, exist_ok=True)
    path = plan.folder / "selftest-run.json"
    mine = {"model": plan.spec, "code": kept.digest()}
    if not path.exists():
        write_text(path, json.dumps(mine))
        return
    held = json.loads(path.read_text(encoding="utf-8"))
    if held != mine:
        raise RecordError(
            f"{plan.folder} holds a selftest of {held.get('model')} by other code or of another "
            "model; go on with the code it was begun with, or choose another folder"
        )


def _sound(plan: Plan, per_cluster: int) -> Tried:
    path = plan.folder / f"{_key('sound', str(per_cluster))}.json"
    held = _read(path)
    if held is None:
        sound = case.sound_of(plan.spec)()
        held = asdict(case.tried(sound, "sound", plan.spec, 0, frozenset(), per_cluster))
        write_text(path, json.dumps(held))
    return tried_from(held)


def _all(
    jobs: Sequence[tuple[str, Callable[..., Any], tuple[Any, ...]]], plan: Plan, done: Done
) -> dict[str, Any]:
    found = {
        key: held for key, _, _ in jobs if (held := _read(plan.folder / f"{key}.json")) is not None
    }
    left = [job for job in jobs if job[0] not in found]
    done("cases", len(found), len(jobs))
    if plan.jobs == 1:
        for key, what, arguments in left:
            _keep(plan.folder, key, asdict(what(*arguments)), found)
            done(key, len(found), len(jobs))
        return found
    # Threads that wait for each other must sleep: some cases take two beside the other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spawn = multiprocessing.get_context("spawn")  # torch does not like to be forked
    with ProcessPoolExecutor(plan.jobs, mp_context=spawn) as pool:
        try:
            waiting = [
                pool.submit(_several, batch, plan.folder) for batch in _batches(left, plan.jobs)
            ]
            for future in as_completed(waiting):
                found |= future.result()
                done(f"{len(found)} cases", len(found), len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _batches(jobs: Sequence[Any], workers: int) -> Iterable[Sequence[Any]]:
    """Yield jobs in runs of six, so that neighbours which share scenes meet in one process."""
    size = 6 if len(jobs) > 6 * workers else 1
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _several(jobs: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Run some cases in a process of their own; each is kept as soon as it is there."""
    found: dict[str, Any] = {}
    for key, what, arguments in jobs:
        _keep(folder, key, asdict(what(*arguments)), found)
    return found


def _keep(folder: Path, key: str, data: Any, found: dict[str, Any]) -> None:
    write_text(folder / f"{key}.json", json.dumps(data))
    found[key] = data


def _key(kind: str, name: str) -> str:
    plain = "".join(c if c.isalnum() or c in "-@." else "_" for c in name)
    return f"{kind}-{plain}-{json_digest([name]).removeprefix('sha256:')[:6]}"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def tried_from(data: dict[str, Any]) -> Tried:
    """Return a case from what was kept of it."""
    return Tried(**{**data, "gates": tuple(data["gates"]), "crashed": tuple(data["crashed"])})
