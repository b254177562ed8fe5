"""The command `audit`: settings in, record and page out, a summary in between."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from arrcoc_verify.adapters import load
from arrcoc_verify.audit import AuditResult, SceneSet, run_audit, scene_set
from arrcoc_verify.cli.ending import Stopped
from arrcoc_verify.cli.output import console, line, new_folder, progress, table, warn, write_json
from arrcoc_verify.cli.reading import settled
from arrcoc_verify.config import REFERENCE, Config
from arrcoc_verify.dictionary.storage import Kept, of_model
from arrcoc_verify.errors import RecordError, UsageError
from arrcoc_verify.model import Model
from arrcoc_verify.prepare import on_device, with_profile
from arrcoc_verify.report.audit_json import audit_json
from arrcoc_verify.report.record import Record
from arrcoc_verify.report.text import clip, interval, join, number, signed, suspected
from arrcoc_verify.trial import Settings
from arrcoc_verify.verdict import STAGES, GateResult, Outcome, Verdict

_MOST = 12
"""So many findings of a kind are printed; the page has them all."""

_WORDS = {
    0: "holds",
    1: "refuted (exit code 1)",
    2: "invalid or not run (exit code 2)",
    3: "inconclusive (exit code 3)",
}

_COLOURS = {
    Outcome.HOLDS: "green", Outcome.REFUTED: "bold red", Outcome.INCONCLUSIVE: "yellow",
    Outcome.INVALID: "magenta", Outcome.NOT_APPLICABLE: "dim", Outcome.NOT_RUN: "magenta",
}  # fmt: skip


def audit(
    given: Mapping[str, Any],
    *,
    json: Path | None,
    resume: Path | None,
    dictionaries: Path | None = None,
) -> int:
    """Audit a model and return the exit code of its verdicts."""
    begun = None
    if resume is not None:
        begun, given = _begun(resume, {**given, "dictionaries": dictionaries})
    given = dict(given)
    dictionaries = given.pop("dictionaries", dictionaries)
    config = settled(given)
    out = resume or config.out or new_folder()
    model = load(config.model or REFERENCE)
    model = on_device(with_profile(model, config.profile), config.device)
    found = scene_set(
        model, config.images, per_cluster=config.per_cluster, seed=config.seed,
        skip_bad=config.skip_bad_rows,
    )  # fmt: skip
    for text in (*found.skipped, *found.notes):
        warn(f"note: {text}")
    if begun is not None:
        _require_same(begun, model, found)
    result = _audited(
        model, found, config, out, resumed=begun is not None,
        dictionaries=_dictionaries(dictionaries, model),
    )  # fmt: skip
    write_json(json, audit_json(Record.load(result.folder), result.report))
    summary(result)
    return result.exit_code


def settings_of(config: Config) -> Settings:
    """Return how a model is tried under these settings."""
    return Settings(
        alpha=config.alpha, confidence=config.confidence, seed=config.seed,
        per_cluster=config.per_cluster, claims=config.claims, waivers=config.waivers,
        device=config.device,
    )  # fmt: skip


def _dictionaries(folder: Path | None, model: Model) -> list[Kept]:
    return [] if folder is None else of_model(folder, model.sites, model.name)


def _audited(
    model: Model,
    found: SceneSet,
    config: Config,
    out: Path,
    *,
    resumed: bool,
    dictionaries: Sequence[Kept],
) -> AuditResult:
    warn(f"auditing {model.name} on {len(found.asserted)} scenes; the record goes to {out}")
    try:
        with progress() as tell:
            return run_audit(
                model, found, settings_of(config), out, resume=resumed, progress=tell,
                dictionaries=dictionaries,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped; what was measured is kept. To go on: arrcoc-verify audit --resume {out}"
        ) from None


def _begun(folder: Path, given: Mapping[str, Any]) -> tuple[Record, Mapping[str, Any]]:
    """Return the record of a run that was stopped, and the options that it was begun with."""
    if extra := [key for key, value in given.items() if value is not None]:
        names = ", ".join("--" + key.replace("_", "-") for key in extra)
        raise UsageError(
            f"--resume goes on with the options that the run was begun with: leave {names} out"
        )
    record = Record.load(folder, strict=False)
    if record.finished:
        raise UsageError(
            f"the run in {folder} has ended, there is nothing to go on with: "
            f"see its page, or make it again by arrcoc-verify report {folder}"
        )
    command = shlex.split(str(record.run["invocation"]["command"]))
    if command[1:2] != ["audit"]:
        raise RecordError(f"the run in {folder} was not begun by arrcoc-verify audit: {command}")
    return record, _options(command[2:])


def _options(arguments: Sequence[str]) -> Mapping[str, Any]:
    import typer

    from arrcoc_verify.cli.app import app

    group: Any = typer.main.get_command(app)
    parsed = dict(group.commands["audit"].make_context("audit", list(arguments)).params)
    for name in ("json", "resume", "out"):
        parsed.pop(name, None)
    return {**parsed, "skip_bad_rows": parsed.get("skip_bad_rows") or None}


def _require_same(begun: Record, model: Model, found: SceneSet) -> None:
    for what, was, now in (
        ("model", begun.run["subject"]["digest"], model.digest),
        ("pictures", begun.run["data"]["digest"], found.digest),
    ):
        if was != now:
            raise UsageError(
                f"the {what} are not those that the run in {begun.folder} was begun with: "
                "run where it was begun, or start a new audit"
            )


def summary(result: AuditResult) -> None:
    """Print verdicts by stage, what failed and why, and the path of the page last."""
    out = console()
    out.print(by_stage(result.verdicts))
    failed = [gate for gate in result.gates if gate.passed is False]
    if failed:
        rows = [(gate.id, _measured_gate(gate), gate.reason) for gate in failed]
        out.print(table("Gates that failed", ("gate", "measured", "reason"), rows))
    for outcome in (Outcome.REFUTED, Outcome.INVALID, Outcome.NOT_RUN, Outcome.INCONCLUSIVE):
        found = [one for one in result.verdicts if one.outcome is outcome]
        if found:
            out.print(_findings(outcome, found))
    if result.suspect is not None:
        line(f"experiments point to {suspected(result.suspect)}: {result.suspect.reason}")
    line(f"{_WORDS[result.exit_code]}; {result.seconds:.0f} s, peak {result.peak_mib:.0f} MiB")
    line(str(result.report))


def _findings(outcome: Outcome, found: Sequence[Verdict]) -> Any:
    """Return the table of one kind of finding; claims without readings go together by reason."""
    if outcome in (Outcome.REFUTED, Outcome.INCONCLUSIVE):
        rows = [
            (one.id, clip(one.sentence, 90), measured(one), _reason(one)) for one in found[:_MOST]
        ]
        return table(_title(outcome, found), ("claim", "said", "measured", "reason"), rows)
    by_reason: dict[str, list[str]] = {}
    for one in found:
        by_reason.setdefault(_reason(one), []).append(one.id)
    grouped = [(str(len(ids)), reason, join(ids, _MOST)) for reason, ids in by_reason.items()]
    title = outcome.value.replace("_", " ").capitalize()
    return table(title, ("#", "reason", "claims"), grouped)


def by_stage(verdicts: Sequence[Verdict]) -> Any:
    """Return the table of how many claims of each stage ended in which way."""
    counts = Counter((one.stage, one.outcome) for one in verdicts)
    stages = [stage for stage in STAGES if any(one.stage == stage for one in verdicts)]
    rows: list[list[Any]] = [
        [stage, *(_cell(counts[stage, outcome], outcome) for outcome in Outcome)]
        for stage in stages
    ]
    totals = Counter(one.outcome for one in verdicts)
    rows.append([Text("all", style="bold"), *(_cell(totals[o], o) for o in Outcome)])
    columns = ["stage", *("#" + outcome.value.replace("_", " ") for outcome in Outcome)]
    return table("Claims", columns, rows)


def _cell(count: int, outcome: Outcome) -> Text:
    return Text(str(count), style=_COLOURS[outcome]) if count else Text("·", style="dim")


def _title(outcome: Outcome, found: Sequence[Verdict]) -> str:
    words = outcome.value.replace("_", " ").capitalize()
    more = f", the first {_MOST} of {len(found)}" if len(found) > _MOST else ""
    return words + more


def measured(verdict: Verdict) -> str:
    """Return effect, interval and margin in one line; a dash where nothing was measured."""
    effect = verdict.effect
    if effect is None:
        return "–"
    against = "" if verdict.margin is None else f", margin {number(verdict.margin)}"
    return f"{signed(effect.value)} {interval(effect)} {effect.unit}{against}"


def _measured_gate(gate: GateResult) -> str:
    if gate.measured is None:
        return "–"
    return f"{number(gate.measured)}, limit {number(gate.limit)} {gate.unit}"


def _reason(verdict: Verdict) -> str:
    waiver = verdict.waiver
    waived = "" if waiver is None else f" (waived by {waiver.author} until {waiver.expires})"
    return clip(verdict.reason, 220) + waived
