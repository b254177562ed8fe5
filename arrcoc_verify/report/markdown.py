"""A record as Markdown, short enough for the summary of a CI job."""

import re
from collections.abc import Iterable

from arrcoc_verify.report import text
from arrcoc_verify.report.casefile import SEVERITY
from arrcoc_verify.report.html import WORDS, headline
from arrcoc_verify.report.record import Record
from arrcoc_verify.verdict import STAGES, Outcome, Verdict

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
MOST_FINDINGS = 30
"""So many findings are listed; the page has them all."""


def render_markdown(record: Record) -> str:
    """Return a record as Markdown."""
    run = record.run
    lines = [
        f"## {escape(headline(record))}",
        "",
        f"**{escape(str(run['subject']['name']))}** · seed {run['seed']} · "
        f"exit code {run['exit_code'] if run['exit_code'] is not None else '–'} · "
        f"record `{text.short(record.digest, 16)}`",
        "",
        *_alarms(record),
        *_table(record),
        "",
        *_suspect(record),
        *_findings(record),
        *_gates(record),
    ]
    return "\n".join(lines).rstrip() + "\n"


def escape(value: str) -> str:
    """Return text that Markdown and HTML leave as it is, on one line."""
    line = " ".join(text.visible(value, 300).split())
    return _SPECIAL.sub(r"\\\1", line)


def _alarms(record: Record) -> Iterable[str]:
    if record.problems:
        yield f"> **This record does not add up:** {escape('; '.join(record.problems[:5]))}\n"
    if record.missing:
        yield f"> **Without a verdict:** {escape(text.join(record.missing, 12))}\n"


def _table(record: Record) -> Iterable[str]:
    yield "| stage | " + " | ".join(WORDS[outcome] for outcome in SEVERITY) + " |"
    yield "|---|" + "---:|" * len(SEVERITY)
    verdicts = record.verdicts
    present = {verdict.stage for verdict in verdicts}
    for stage in [*(s for s in STAGES if s in present), *sorted(present - set(STAGES))]:
        here = [verdict.outcome for verdict in verdicts if verdict.stage == stage]
        yield f"| {escape(stage)} | " + " | ".join(_count(here, o) for o in SEVERITY) + " |"
    everything = [verdict.outcome for verdict in verdicts]
    yield "| **all** | " + " | ".join(_count(everything, o) for o in SEVERITY) + " |"


def _count(outcomes: list[Outcome], outcome: Outcome) -> str:
    many = outcomes.count(outcome)
    return f"**{many}**" if many and outcome is not Outcome.HOLDS else str(many)


def _suspect(record: Record) -> Iterable[str]:
    found = record.suspect
    if found is not None:
        yield f"Experiments point to **{escape(text.suspected(found))}**: {escape(found.reason)}."
        yield ""


def _findings(record: Record) -> Iterable[str]:
    quiet = (Outcome.HOLDS, Outcome.NOT_APPLICABLE)
    loud = [verdict for verdict in record.verdicts if verdict.outcome not in quiet]
    loud.sort(key=lambda verdict: SEVERITY.index(verdict.outcome))
    if not loud:
        return
    yield "### Findings"
    yield ""
    for verdict in loud[:MOST_FINDINGS]:
        yield f"- {_finding(verdict)}"
    if len(loud) > MOST_FINDINGS:
        yield f"- and {len(loud) - MOST_FINDINGS} more, in the page"
    yield ""


def _finding(verdict: Verdict) -> str:
    effect = verdict.effect
    measured = ""
    if effect is not None:
        measured = (
            f" Measured {text.signed(effect.value)} {text.interval(effect)} {effect.unit}, "
            f"margin {text.number(verdict.margin)}, n = {verdict.n}."
        )
    waived = f" Waived by {verdict.waiver.author}." if verdict.waiver is not None else ""
    reason = verdict.reason.rstrip(".")
    said = f"{verdict.sentence.rstrip('.')}. {reason[:1].upper()}{reason[1:]}.{measured}{waived}"
    return f"**{WORDS[verdict.outcome]}** {escape(verdict.id)}: {escape(said)}"


def _gates(record: Record) -> Iterable[str]:
    failed = [gate for gate in record.gates if gate.passed is False]
    if failed:
        yield "### Failed gates"
        yield ""
        for gate in failed:
            yield f"- {escape(gate.id)}: {escape(gate.reason or gate.sentence)}"
