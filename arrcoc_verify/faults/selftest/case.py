"""One case of the selftest: a faulty or healthy model, and what the suite made of it."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from arrcoc_verify import suite
from arrcoc_verify.adapters import load
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.faults import oracle, twin
from arrcoc_verify.faults.analytic import FAULTS
from arrcoc_verify.faults.attending import kept
from arrcoc_verify.faults.bench import SharedLab, Shelf
from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.general import faults_of
from arrcoc_verify.faults.healthy import permuted, single_precision
from arrcoc_verify.faults.matrix import letter
from arrcoc_verify.lab import scene_size
from arrcoc_verify.locating import failed_by_reading, suspect
from arrcoc_verify.model import Model
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.trial import Settings, Trial, try_model
from arrcoc_verify.verdict import Suspect

ANALYTIC = "reference:analytic"
PER_CLUSTER = 1
"""Scenes a cluster: the fewest at which the sound model holds on every claim."""
AUDITED = Settings().per_cluster
"""Scenes a cluster that an audit takes: they decide what the sound model itself does not hold."""
ALARMS = frozenset("RGe")
"""Letters of a claim that count as an alarm: refuted, or invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A sound model in another dress, which must stay silent.

    Attributes:
        name: `variant/seed`.
        make: returns the model.
        seed: of scenes, labs and statistics.
        threads: of BLAS.
    """

    name: str
    make: Callable[[], Model]
    seed: int
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What the suite made of one case; plain data.

    Attributes:
        name: of the fault or variant.
        seed: of scenes and statistics.
        letters: claim id -> letter, as in `faults.matrix`.
        gates: ids of gates that were read and did not hold.
        crashed: ids of gates that could not be read.
        suspect: stage, part, site and reason; empty when nothing was suspected.
        seconds: wall time.
    """

    name: str
    seed: int
    letters: Mapping[str, str]
    gates: tuple[str, ...]
    crashed: tuple[str, ...]
    suspect: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@functools.cache
def sound_of(spec: str) -> Callable[[], Model]:
    """Return what makes the sound model that a spec names.

    Others than the analytic one are loaded once a process: planting copies a model around the same
    modules, so that what lies before a fault needs to be computed once only.
    """
    return analytic.model if spec == ANALYTIC else functools.cache(lambda: load(spec))


@functools.cache
def faults(spec: str) -> dict[str, Fault]:
    """Return every fault of a model by name: general ones, and those of the analytic model."""
    own = FAULTS if spec == ANALYTIC else ()
    return {one.name: one for one in (*own, *faults_of(sound_of(spec)))}


def variants(spec: str, runs: int) -> list[Variant]:
    """Return so many healthy cases: variants of the model, each over several seeds."""
    sound = sound_of(spec)
    dressed: list[tuple[str, Callable[[], Model], int]] = [
        ("as it is", sound, 1),
        ("in batches of 1", _batches(sound, 1), 1),
        ("in batches of 5", _batches(sound, 5), 1),
        ("two threads", sound, 2),
    ]
    if spec == ANALYTIC:
        dressed += [("float32", single_precision, 1), ("channels permuted", permuted, 1)]
    return [
        Variant(name=f"{name}/{seed}", make=make, seed=seed, threads=threads)
        for seed in range(1, 1 + -(-runs // len(dressed)))
        for name, make, threads in dressed
    ][:runs]


def _batches(sound: Callable[[], Model], size: int) -> Callable[[], Model]:
    def make() -> Model:
        model = sound()
        if not model.declaration.batch_invariant:
            return model
        return replace(model, declaration=replace(model.declaration, batch_size=size))

    return make


@functools.lru_cache(maxsize=4)
def _population(
    role: str, grid: tuple[int, int], size: int, seed: int, per_cluster: int
) -> tuple[Scene, ...]:
    return tuple(scenes(role, grid=grid, size=size, per_cluster=per_cluster, seed=seed))


@functools.lru_cache(maxsize=1)
def _shelf(spec: str, seed: int) -> Shelf:
    del seed  # seeds share nothing
    return Shelf(sound=sound_of(spec))


def tried(
    model: Model,
    name: str,
    spec: str,
    seed: int,
    expected: frozenset[str],
    per_cluster: int = PER_CLUSTER,
) -> Tried:
    """Try the suite on a model, and say whom it suspects.

    Args:
        model: faulty or healthy.
        name: of the case.
        spec: sound model.
        seed: of scenes and statistics.
        expected: claims and gates on which the sound model itself does not hold.
        per_cluster: scenes of each cluster.
    """
    start = time.perf_counter()
    settings = replace(Settings(), seed=seed, per_cluster=per_cluster)
    place = (model.declaration.grid, scene_size(model), seed, per_cluster)
    shelf = _shelf(spec, seed)
    asserted = SharedLab(model, _population("assert", *place), seed, shelf)
    selected = SharedLab(model, _population("select", *place), seed, shelf)
    trial = try_model(asserted, selected, suite.CLAIMS, suite.GATES, settings)
    found = _suspect(trial, asserted, selected, expected)
    read = {gate.id for gate in failed_by_reading(trial.gates)}
    return Tried(
        name=name, seed=seed,
        letters={verdict.id: letter(verdict) for verdict in trial.verdicts},
        gates=tuple(sorted(read)),
        crashed=tuple(g.id for g in trial.gates if g.passed is False and g.id not in read),
        suspect={} if found is None else {
            "stage": found.stage, "part": found.part, "site": found.site, "reason": found.reason,
        },
        seconds=round(time.perf_counter() - start, 2),
    )  # fmt: skip


def _suspect(
    trial: Trial, asserted: SharedLab, selected: SharedLab, expected: frozenset[str]
) -> Suspect | None:
    verdicts = [v for v in trial.verdicts if v.id not in expected]
    gates = [g for g in trial.gates if g.id not in expected]
    try:
        return suspect(verdicts, gates, asserted, selected)
    except ArrcocError:
        return None  # a model on which no experiment can be made points nowhere


def try_fault(name: str, spec: str, seed: int, expected: frozenset[str]) -> Tried:
    """Try the suite on one planted fault."""
    torch.set_num_threads(1)
    return tried(faults(spec)[name].make(), name, spec, seed, expected)


def try_variant(name: str, spec: str, seed: int, expected: frozenset[str]) -> Tried:
    """Try the suite on one healthy variant."""
    one = next(v for v in variants(spec, 10_000) if v.name == name and v.seed == seed)
    torch.set_num_threads(one.threads)
    try:
        return tried(one.make(), name, spec, seed, expected)
    finally:
        torch.set_num_threads(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the differential oracle and the sound twin say of a fault; plain data.

    Attributes:
        name: of the fault.
        killable: it changes a budget, a report or a contract.
        why: what it changes, or why it counts as equivalent.
        crashed: the model raised.
        twin: stage whose sound steps make the difference vanish, or "".
    """

    name: str
    killable: bool
    why: str
    crashed: bool
    twin: str


@functools.cache
def _reference(name: str, spec: str) -> oracle.Reference:
    return oracle.reference_of(kept() if name == "kept" else sound_of(spec)())


def judge_fault(name: str, spec: str) -> Judged:
    """Hold one fault against its sound model."""
    torch.set_num_threads(1)
    fault = faults(spec)[name]
    reference = _reference("kept" if fault.sound is kept else "sound", spec)
    found = oracle.judge(fault, reference)
    place = twin.locate(fault.make(), fault.sound(), reference) if found.is_so else ""
    return Judged(
        name=name, killable=found.is_so, why=found.why(), crashed=bool(found.crashed), twin=place
    )
