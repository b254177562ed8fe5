"""The audit page: one file made from a record alone, which opens offline and runs no data.

Same record, same bytes: nothing here reads a clock. A strict content policy allows only this page's
own style and script, by digest, and pictures that lie in the page.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from arrcoc_verify.report import colour, figure, glance, text
from arrcoc_verify.report import event as ev
from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.report.casefile import SEVERITY, CaseView, case_view, files_of, ordered_cases
from arrcoc_verify.report.record import E, Record
from arrcoc_verify.verdict import STAGES, Outcome, Verdict

BUDGET = 1_500_000
"""Bytes that a page may have; above it fewer cases are shown, and the page says so."""

MOST_CASES = 40

_TEMPLATES = Path(__file__).parent / "template"
_SMALL_WIDTH = 168.0
_LARGE_WIDTH = 420.0

WORDS = {
    "holds": "holds",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "invalid": "invalid",
    "not_applicable": "not applicable",
    "not_run": "not run",
}
"""Outcomes as a reader says them."""

EXIT_WORDS = {
    0: "every required claim holds",
    1: "a required claim is refuted",
    2: "a required claim is invalid or did not run",
    3: "a required claim is undecided",
}
"""What an exit code means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A verdict and its small plot, whose axis counts in margins; a finding has an axis of its own.

    Attributes:
        verdict: what came out.
        plot: the small plot; None when nothing finite was measured.
        case: id of a case that the page shows, or "".
        units: digest of the readings unit by unit, or "".
        own: the plot of a finding, which shows its effect however far it lies.
        own_scale: the axis of that plot, in the effect's unit.
    """

    verdict: Verdict
    plot: figure.IntervalPlot | None
    case: str
    units: str = ""
    own: figure.IntervalPlot | None = None
    own_scale: figure.Scale | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Verdicts of one stage and unit on one axis."""

    stage: str
    unit: str
    scale: figure.Scale
    rows: Sequence[Row]


def write_page(record: Record, path: Path) -> Path:
    """Write the audit page of a record to a file, whole or not at all, and return its path."""
    write_text(path, render(record))
    return path


def render(record: Record, *, most_cases: int = MOST_CASES, budget: int = BUDGET) -> str:
    """Return the audit page of a record.

    Args:
        record: as `Record.load` returns it.
        most_cases: how many cases are shown at most, weakest first.
        budget: bytes the page may have; cases are left out until it fits.
    """
    cases = ordered_cases(record.verdicts)
    shown = min(len(cases), most_cases)
    views = [case_view(record, verdict, case) for verdict, case in cases[:shown]]
    while True:
        page = _page(record, views[:shown], len(cases))
        size = len(page.encode())
        if size <= budget or shown == 0:
            return page
        # The cases make nearly all of the size, so this ends after a round or two.
        shown = min(shown - 1, int(shown * budget / size))


def _page(record: Record, views: Sequence[CaseView], total: int) -> str:
    pictures = {view.picture: view for view in views if view.picture}
    return page_of(
        "audit.html.j2",
        pictures={
            sha: (colour.data_uri("image/webp", record.image(sha)), view.width, view.height)
            for sha, view in pictures.items()
        },
        cases=views,
        files=files_of(views),
        cases_total=total,
        **_context(record, {view.case.id for view in views}),
    )


def page_of(template: str, **context: Any) -> str:
    """Return a page made by one of this package's templates, its style and script inside it."""
    css = (_TEMPLATES / "audit.css").read_text(encoding="utf-8")
    script = (_TEMPLATES / "audit.js").read_text(encoding="utf-8")
    return _environment().get_template(template).render(
        css=Markup(css),
        script=Markup(script),
        css_digest=_csp_digest(css),
        script_digest=_csp_digest(script),
        ramp=colour.ramp_uri(),
        **context,
    )  # fmt: skip


def _csp_digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "num": text.number,
        "signed": text.signed,
        "pct": text.percent,
        "level": text.level,
        "interval": text.interval,
        "short": text.short,
        "cut": text.visible,
        "json": text.pretty_json,
        "names": text.join,
        "suspected": text.suspected,
        "word": WORDS.__getitem__,
        "anchor": text.anchor,
        "stays_below": figure.stays_below,
        "bound": glance.bound,
        "by_severity": lambda rows: sorted(rows, key=_row_severity),
    }
    return environment


def _row_severity(row: Row) -> int:
    return SEVERITY.index(row.verdict.outcome)


def _context(record: Record, shown: set[str]) -> dict[str, Any]:
    verdicts = record.verdicts
    units = {claim.verdict.id: claim.units for claim in record.claims}
    rows = [replace(_row(v, shown), units=units[v.id]) for v in verdicts]
    stages = _stages([row.verdict.stage for row in rows])
    loud = (Outcome.REFUTED, Outcome.INVALID, Outcome.INCONCLUSIVE, Outcome.NOT_RUN)
    by_severity = sorted(rows, key=_row_severity)
    decompositions = _latest(record, ev.Decomposition)
    return {
        "record": record,
        "run": record.run,
        "outcome": _outcome(record),
        "headline": headline(record),
        "outcomes": [outcome.value for outcome in SEVERITY],
        "tally": {o.value: sum(v.outcome is o for v in verdicts) for o in SEVERITY},
        "verdicts": verdicts,
        "stages": [(s, [row for row in rows if row.verdict.stage == s]) for s in stages],
        "findings": [_with_own_axis(row) for row in by_severity if row.verdict.outcome in loud],
        "quiet": [row for row in rows if row.verdict.outcome not in loud],
        "untested": [
            (o.value, [v for v in verdicts if v.outcome is o]) for o in SEVERITY[2:5]
        ],
        "waived": [verdict for verdict in verdicts if verdict.waiver is not None],
        "groups": _groups(verdicts, stages, shown),
        "gates": sorted(record.gates, key=lambda gate: {False: 0, None: 1, True: 2}[gate.passed]),
        "decompositions": [(d, *figure.shares(d, _LARGE_WIDTH)) for d in decompositions],
        "effects": _latest(record, ev.Effects),
        "isolations": _latest(record, ev.Isolation),
        "tensions": [(t, *figure.tension_panels(t, 150.0)) for t in _latest(record, ev.Tension)],
        "features": _features(record),
        "sites": [row for event in _latest(record, ev.Sites) for row in event.rows],
        "notes": record.of(ev.Note),
        "fault": glance.first_fault(verdicts),
        "suspect": record.suspect,
        "controls": glance.controls(verdicts),
        "exit_words": EXIT_WORDS,
    }  # fmt: skip


def _features(record: Record) -> list[tuple[ev.Features, dict[str, Markup]]]:
    """Return the latents of each site, and their pictures by digest as data URIs."""
    found = {event.site: event for event in record.of(ev.Features)}
    pictures = {
        top.image: colour.data_uri("image/webp", record.image(top.image))
        for event in found.values() for row in event.rows for top in row.top
        if record.has(top.image)
    }  # fmt: skip
    return [(event, pictures) for event in found.values()]


def _latest(record: Record, kind: type[E]) -> list[E]:
    """Return the last event of a kind for each metric: a resumed run may have made it twice."""
    return list({getattr(event, "metric", ""): event for event in record.of(kind)}.values())


def _stages(present: Sequence[str]) -> list[str]:
    """Return the stages that occur, in the order of data's flow; unknown ones last."""
    return [s for s in STAGES if s in present] + sorted(set(present) - set(STAGES))


def _row(verdict: Verdict, shown: set[str], scale: figure.Scale | None = None) -> Row:
    if scale is None and verdict.margin:
        scale = figure.margin_scale(verdict.margin, _SMALL_WIDTH)
    plot = figure.interval_plot(verdict, scale) if scale is not None else None
    case = next((case.id for case in verdict.worst if case.id in shown), "")
    return Row(verdict=verdict, plot=plot, case=case)


def _with_own_axis(row: Row) -> Row:
    if row.plot is None:
        return row
    scale = figure.shared_scale([row.verdict], _LARGE_WIDTH)
    return replace(row, own=figure.interval_plot(row.verdict, scale), own_scale=scale)


def _groups(verdicts: Sequence[Verdict], stages: Sequence[str], shown: set[str]) -> list[Group]:
    """Return the verdicts that have an effect, by stage and unit, each group on one axis."""
    groups = []
    measured = [verdict for verdict in verdicts if verdict.effect is not None]
    for stage in stages:
        here = [verdict for verdict in measured if verdict.stage == stage]
        for unit in dict.fromkeys(v.effect.unit for v in here if v.effect is not None):
            same = [v for v in here if v.effect is not None and v.effect.unit == unit]
            scale = figure.shared_scale(same, _LARGE_WIDTH)
            rows = [_row(verdict, shown, scale) for verdict in same]
            groups.append(Group(stage=stage, unit=unit, scale=scale, rows=rows))
    return groups


def _outcome(record: Record) -> str:
    return str(record.run["outcome"]) if record.finished else "not_run"


def headline(record: Record) -> str:
    """Return the run's end in one sentence."""
    if not record.finished:
        planned = len(record.run["planned"]) or "an unknown number of"
        return f"Unfinished: {len(record.verdicts)} of {planned} claims were decided."
    required = [v for v in record.verdicts if v.required and v.outcome.value != "not_applicable"]
    today = str(record.run["completed_at"])[:10]
    counted = [v for v in required if v.waiver is None or today > v.waiver.expires]
    silent = sum(v.outcome.value == "not_applicable" for v in record.verdicts)
    outcome = str(record.run["outcome"])
    many = sum(v.outcome.value == outcome for v in counted)
    claims = f"{many} of {len(required)} required claims"
    if outcome == "not_run" and not many:
        return "Nothing was shown: no required claim ran to a verdict."
    return {
        "holds": f"Holds: {claims} hold" + _besides(len(required) - len(counted), silent),
        "refuted": f"Refuted: {claims} do not hold.",
        "invalid": f"Invalid: {claims} could not be judged.",
        "inconclusive": f"Undecided: {claims} need more evidence.",
        "not_run": f"Incomplete: {claims} did not run.",
    }[outcome]


def _besides(waived: int, silent: int) -> str:
    """Return what else is to be said of a run that holds: claims that do not stand behind it."""
    said = [f"; {waived} more are waived"] if waived else []
    if silent:
        said.append(f"; {silent} do not apply to what this model shows")
    return "".join(said) + "."
