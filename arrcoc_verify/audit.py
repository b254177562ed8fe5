"""An audit: gates, claims and evidence on a model, written as a record and a page."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arrcoc_verify import evidence, provenance
from arrcoc_verify.dictionary.storage import Kept, weights_digest
from arrcoc_verify.errors import ArrcocError, UsageError
from arrcoc_verify.lab import Lab, NotApplicable, scene_size
from arrcoc_verify.model import Model
from arrcoc_verify.report import event
from arrcoc_verify.report.html import write_page
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.writer import Header, RecordWriter
from arrcoc_verify.scenes import load as loading
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.suite import CLAIMS, GATES, with_margins
from arrcoc_verify.suite.latents import feature_claims, feature_events, with_features
from arrcoc_verify.trial import Keep, Progress, Settings, Trial, silent, try_model
from arrcoc_verify.verdict import GateResult, Suspect, Verdict

REPORT = "report.html"
FamilyControls = Callable[[], dict[str, dict[str, str]]]


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """What an audit looks at.

    Attributes:
        asserted: scenes that verdicts rest on.
        selected: scenes that gates look at; never the asserted ones.
        name: shown in the report.
        digest: sha256 over pictures and queries.
        skipped: rows or files that were left out because the user asked for it.
        notes: what was done to some pictures.
    """

    asserted: tuple[Scene, ...]
    selected: tuple[Scene, ...]
    name: str
    digest: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """Where an audit ended.

    Attributes:
        folder: of the record.
        report: page made from it.
        verdicts: one a claim.
        gates: one a gate.
        exit_code: 0 holds, 1 refuted, 2 invalid or not run, 3 only inconclusive left.
        seconds: wall time.
        peak_mib: greatest resident memory of the process.
        suspect: where experiments place the fault; None where nothing failed or none could be made.
    """

    folder: Path
    report: Path
    verdicts: tuple[Verdict, ...]
    gates: tuple[GateResult, ...]
    exit_code: int
    seconds: float
    peak_mib: float
    suspect: Suspect | None = None


def scene_set(
    model: Model,
    images: Path | None = None,
    *,
    per_cluster: int = 2,
    seed: int = 0,
    skip_bad: bool = False,
) -> SceneSet:
    """Return scenes for a model: composed from the fixtures, or from a user's own pictures.

    Args:
        model: decides grid and size.
        images: a folder of photographs (backgrounds of composed scenes), a CSV `image,query,box`,
            or COCO json (natural scenes); None for the photographs that come with the package.
        per_cluster: scenes of each pair of objects, for the package's own photographs.
        seed: of places and words.
        skip_bad: leave bad rows out, and say which, instead of raising.

    Raises:
        BadTable, BadImage, BadRegion, BadQuery: naming the row or file.
    """
    grid, size = model.declaration.grid, scene_size(model)
    selected = tuple(scenes("select", grid=grid, size=size, per_cluster=2, seed=seed))
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if images is None:
        asserted = tuple(scenes("assert", grid=grid, size=size, per_cluster=per_cluster, seed=seed))
        name = "photographs of the package"
    else:
        limits = loading.Limits(skip_bad=skip_bad)
        loaded = loading.load(images, grid=grid, size=size, seed=seed, limits=limits)
        asserted, name = loaded.scenes, str(images)
        skipped = tuple(f"{one.where}: {one.reason}" for one in loaded.skipped)
        notes = loaded.notes
    if not asserted:
        raise UsageError(f"wanted at least one scene, got none from {name}")
    return SceneSet(
        asserted=asserted, selected=selected, name=name, digest=_digest(asserted),
        skipped=skipped, notes=notes,
    )  # fmt: skip


def _digest(asserted: tuple[Scene, ...]) -> str:
    found = hashlib.sha256()
    for scene in asserted:
        found.update(scene.image.tobytes())
        asked = (scene.query, scene.other_query, scene.paraphrase, scene.absent_query)
        places = (scene.target.box, scene.distractor.box if scene.distractor else None)
        words = (*asked, scene.nonsense, scene.unit, scene.cluster)
        found.update(json.dumps([*words, *places]).encode())
    return found.hexdigest()


def run_audit(  # noqa: PLR0913 - each is named at the call
    model: Model,
    found: SceneSet,
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    controls: FamilyControls | None = None,
    progress: Progress | None = None,
    dictionaries: Sequence[Kept] = (),
) -> AuditResult:
    """Audit a model and write the record and the page.

    Args:
        model: model under test.
        found: scenes, as `scene_set` returns them.
        settings: error rates, seed, claims, waivers.
        out: folder of the record; made when it does not exist.
        resume: go on with an interrupted run in `out`.
        controls: returns claim -> positive control -> state; default are the package's own.
        progress: called with what is being done.
        dictionaries: of the model's sites; claims on features are made of them, too.

    Raises:
        RecordError: the folder holds another record, or cannot be written.
        UnknownName: a claim pattern matches nothing.
    """
    start = time.perf_counter()
    asserted = Lab(model, found.asserted, settings.seed)
    selected = Lab(model, found.selected, settings.seed)
    features = feature_claims(selected, dictionaries)
    claims = with_margins(with_features(settings.claims, features), model.profile)
    key = _key(model, found, settings, dictionaries)
    header = _header(model, found, settings, [claim.id for claim in claims], key)
    keep_folder = out / "readings"
    with RecordWriter.resume(out) if resume else RecordWriter(out, header) as writer:
        trial = try_model(
            asserted, selected, claims, GATES, settings,
            faults_caught=(controls or _own_controls)(), progress=progress,
            keep=Keep(keep_folder, key),
        )  # fmt: skip
        verdicts = _write(writer, trial, asserted, found, settings, progress)
        suspect = _suspected(writer, trial, asserted, selected, progress)
        if dictionaries and not _broken(trial):
            _features(writer, selected, asserted, dictionaries, progress)
        seconds = time.perf_counter() - start
        _, code = writer.finish(seconds=seconds, peak_mib=provenance.peak_mib())
    for path in [*keep_folder.glob("*.json"), *keep_folder.glob("*.part")]:
        path.unlink()
    keep_folder.rmdir()
    report = write_page(Record.load(out), out / REPORT)
    return AuditResult(
        folder=out, report=report, verdicts=tuple(verdicts), gates=trial.gates,
        exit_code=code, seconds=seconds, peak_mib=provenance.peak_mib(), suspect=suspect,
    )  # fmt: skip


def _own_controls() -> dict[str, dict[str, str]]:
    from arrcoc_verify.faults.controls import load_controls  # faults use the trial

    return load_controls()


def _own_error_rates() -> dict[str, Any] | None:
    from arrcoc_verify.faults.selftest import kept  # faults use the trial

    return kept.for_the_page()


def _key(model: Model, found: SceneSet, settings: Settings, dictionaries: Sequence[Kept]) -> str:
    parts = [
        model.name, model.spec, model.digest, found.digest, provenance.tool()["digest"],
        asdict(model.declaration), asdict(model.profile), settings.seed, settings.device,
    ]  # fmt: skip
    if dictionaries:
        parts.append(weights_digest(dictionaries))
    return provenance.json_digest(parts)


def _header(
    model: Model, found: SceneSet, settings: Settings, planned: list[str], key: str
) -> Header:
    declared = asdict(model.declaration)
    roles: dict[str, int] = {"assert": len(found.asserted), "select": len(found.selected)}
    return Header(
        command=shlex.join(["arrcoc-verify", *sys.argv[1:]]),
        subject={
            "name": model.name, "spec": model.spec or model.name, "adapter": model.adapter,
            "digest": model.digest, "declaration": declared,
        },
        data={
            "name": found.name, "digest": found.digest,
            "photographs": len({scene.unit for scene in found.asserted}),
            "scenes": len(found.asserted), "roles": roles,
        },
        config={
            "alpha": settings.alpha, "confidence": settings.confidence,
            "per_cluster": settings.per_cluster, "claims": list(settings.claims),
            "profile": model.profile.name, "device": settings.device, "readings": key,
            "gates": [gate.id for gate in GATES], "suite": len(CLAIMS),
        },
        environment=provenance.environment(),
        seed=settings.seed,
        planned=planned,
        selftest=_own_error_rates(),
    )  # fmt: skip


def _write(
    writer: RecordWriter,
    trial: Trial,
    lab: Lab,
    found: SceneSet,
    settings: Settings,
    progress: Progress | None,
) -> list[Verdict]:
    for gate in trial.gates:
        if gate.id not in writer.done_gates:
            writer.add_gate(gate)
    for text in (*found.skipped, *found.notes):
        writer.add(event.Note(level="warning", text=text))
    for text in lab.model.declaration.lacks:
        writer.add(event.Note(level="info", text=f"this model has no {text}"))
    verdicts = list(trial.verdicts)
    if trial.judged and not _broken(trial):
        verdicts = _evidence(writer, trial, lab, settings, progress)
    for verdict in verdicts:
        if verdict.id in writer.done_claims:
            continue
        judged = trial.judged.get(verdict.id)
        units = None if judged is None else judged.per_cluster
        names = trial.clusters if units is not None else ()
        writer.add_claim(verdict, units, names)
    return verdicts


def _suspected(
    writer: RecordWriter, trial: Trial, asserted: Lab, selected: Lab, progress: Progress | None
) -> Suspect | None:
    """Record where experiments place the fault, if a claim is refuted or a gate failed."""
    from arrcoc_verify.locating import suspect

    (progress or silent)("placing the fault", 0, 1)
    try:
        found = suspect(trial.verdicts, trial.gates, asserted, selected)
    except Exception as error:  # noqa: BLE001 - the audit stands, whatever the model raises now
        text = f"where the fault lies could not be looked for: {error}"
        writer.add(event.Note(level="warning", text=text))
        return None
    if found is None:
        return None
    writer.add(found)
    return found


def _broken(trial: Trial) -> bool:
    """Return whether the model cannot even be run soundly, so that evidence would mislead."""
    return any(g.id.startswith("runtime.") and g.passed is False for g in trial.gates)


def _evidence(
    writer: RecordWriter, trial: Trial, lab: Lab, settings: Settings, progress: Progress | None
) -> list[Verdict]:
    tell = progress or silent
    level, seed = settings.confidence, settings.seed
    everything, lab = lab, lab.subset(_one_a_cluster(lab))
    makers: list[tuple[str, Callable[[], Any]]] = [
        ("sites", lambda: [evidence.site_rows(lab.clean)]),
        ("effects", lambda: [evidence.effect_table(lab, level, seed)]),
        ("tensions", lambda: [evidence.tension_points(lab)]),
    ]
    if "*" in settings.claims:
        makers.append(("causal shares", lambda: evidence.causal_shares(lab, level, seed)))
    for index, (name, make) in enumerate(makers):
        tell(name, index, len(makers))
        try:
            for one in make():
                writer.add(one)
        except NotApplicable as reason:
            writer.add(event.Note(level="info", text=f"no {name}: {reason}"))
        except ArrcocError as error:
            writer.add(event.Note(level="warning", text=f"no {name}: {error}"))
    tell("cases", len(makers), len(makers))
    with suppress(NotApplicable):
        return evidence.with_cases(trial.verdicts, trial.judged, everything, writer)
    return list(trial.verdicts)


def _features(
    writer: RecordWriter,
    selected: Lab,
    lab: Lab,
    dictionaries: Sequence[Kept],
    progress: Progress | None,
) -> None:
    """Add what the latents of dictionaries are, one scene of each cluster being looked at."""
    lab = lab.subset(_one_a_cluster(lab))
    for at, kept in enumerate(dictionaries):
        (progress or silent)(f"latents of {kept.site}", at, len(dictionaries))
        try:
            for one in feature_events(selected, lab, [kept], writer):
                writer.add(one)
        except ArrcocError as error:
            text = f"what the latents of {kept.site} are was not measured: {error}"
            writer.add(event.Note(level="warning", text=text))


def _one_a_cluster(lab: Lab) -> list[int]:
    names = lab.clusters()
    return [index for index, name in enumerate(names) if name not in names[:index]]
