"""Which stage the evidence points to, found without a sound twin.

A defect that all scorers share lies in what they are given. A gate that failed is repeated with
every site read: the first site that differs lies at the fault, since what comes before it is as it
should be. Claims vote for the parts between what they write and
what they read; the fault lies in a part that all refuted ones can blame. Between pictures, queries
and the scorer that joins them, donors decide.
"""

import re
from collections.abc import Mapping, Sequence

from arrcoc_verify.lab import Lab
from arrcoc_verify.locating.differing import first_of_gates
from arrcoc_verify.locating.donors import picture_put_right, query_suspected
from arrcoc_verify.locating.entrance import entrance_suspected
from arrcoc_verify.suite.spans import BEFORE, PARTS, SCORER_PARTS, part_of_role, span
from arrcoc_verify.verdict import GateResult, Outcome, Suspect, Verdict

CRASHED = "the check could not be made"
"""How the reason of a check begins that raised: it says nothing of what it checks."""
SCORED = {"information": "information", "salience": "salience", "query_relevance": "coupling"}
SHOWN = {
    "information": "knowing.information-follows-entropy",
    "salience": "knowing.salience-follows-contrast",
    "query": "knowing.query-finds-the-asked",
}
"""Scorer -> the claim that its map shows what it should."""
MOVES = re.compile(r"knowing\.(\w+)-(?:causes-tokens|is-necessary)")
"""Claims that move a map by what it holds."""
ENTRANCE = ("input", "encoder", "query", "coupling")
MIRRORED, TURNED = "whole.mirror-image-mirrors-relevance", "knowing.scores-move-with-the-picture"
EXONERATED, SEVERAL = 0.25, 3
"""What is left of the votes for a part that several claims of its own speak for."""
ALONE = 0.5
"""What is left of the votes for pictures and encoder when only one scorer is blamed."""
DOUBT = 0.3
"""Weight of a claim that is undecided against one that is refuted."""


def failed_by_reading(gates: Sequence[GateResult]) -> list[GateResult]:
    """Return the gates that were read and did not hold; a check that raised is none."""
    return [g for g in gates if g.passed is False and not g.reason.startswith(CRASHED)]


def suspect(
    verdicts: Sequence[Verdict], gates: Sequence[GateResult], asserted: Lab, selected: Lab
) -> Suspect | None:
    """Return where the fault lies that gates and claims show, or None when they show none.

    Args:
        verdicts: of one trial.
        gates: of the same trial.
        asserted: lab with the scenes that the claims were judged on.
        selected: lab with the scenes that the gates looked at.
    """
    failed = failed_by_reading(gates)
    refuted = [v for v in verdicts if v.outcome is Outcome.REFUTED]
    if not refuted and not failed:
        return None
    # A model that does not repeat itself answers no experiment: its gates come first.
    if not any(gate.id.startswith("runtime.") for gate in failed):
        broken = [*(verdict.id for verdict in refuted), *(gate.id for gate in failed)]
        shared = entrance_suspected(selected, broken)
        if shared:
            return Suspect(stage="input", part="input", reason=shared)
    return _of_gates(failed, selected) or _of_claims(refuted, verdicts, asserted)


def _of_gates(failed: Sequence[GateResult], lab: Lab) -> Suspect | None:
    order = list(PARTS)
    best: tuple[int, Suspect] | None = None
    for gate, site in first_of_gates([(g.id, g.reason) for g in failed], lab):
        part = part_of_role(site.role, site.stage)
        found = Suspect(
            stage=PARTS[part], part=part, site=site.name,
            reason=f"repeating {gate}, {site.name} is the first site that breaks it",
        )  # fmt: skip
        if best is None or order.index(part) < best[0]:
            best = (order.index(part), found)
    return best[1] if best else None


def _of_claims(refuted: Sequence[Verdict], verdicts: Sequence[Verdict], lab: Lab) -> Suspect | None:
    spans = parts_of(verdicts)
    votes = ballot(refuted, verdicts)
    if not votes:
        return None
    part = _first_of(votes)
    if part in ENTRANCE:
        part, said = _entering(votes, refuted, lab, _scorers_blamed(refuted, spans))
    else:
        said = ""
    blamed = sum(part in spans[one.id] for one in refuted)
    reason = said or f"{blamed} of {len(refuted)} refuted claims speak of it"
    return Suspect(stage=PARTS[part], part=part, reason=reason)


def _first_of(votes: Mapping[str, float]) -> str:
    """Return the part with most votes; of equals the one where data comes first."""
    order = list(PARTS)
    return max(votes, key=lambda name: (round(votes[name], 9), -order.index(name)))


def parts_of(verdicts: Sequence[Verdict]) -> dict[str, tuple[str, ...]]:
    """Return the parts that each claim speaks of, as far as other claims do not clear them.

    A claim that gives a figure for each scorer, and does not hold, does not speak of those whose
    own figure is fine. One that moves a map by what it holds speaks of the scorer, too, where the
    map is not known to show what it should: an empty map moves nothing.
    """
    held = {v.id for v in verdicts if v.outcome is Outcome.HOLDS}
    doubted = {v.id: v.stage for v in verdicts
               if v.outcome in (Outcome.REFUTED, Outcome.INCONCLUSIVE)}  # fmt: skip
    spans = {}
    for one in verdicts:
        parts = span(one.id, one.stage)
        figures = {SCORED[k]: v for k, v in one.numbers.items() if k in SCORED}
        if one.id not in held and len(set(figures) & set(parts)) > 1:
            worst = max(figures.values())
            fine = {part for part, value in figures.items() if value < 0.5 * worst}
            shared = {"input", "encoder"} if fine else set()  # would show in the fine ones, too
            parts = tuple(part for part in parts if part not in fine | shared)
        if one.id == MIRRORED and TURNED in held:
            parts = ("balancing",)
        moves = MOVES.fullmatch(one.id)
        shown = SHOWN.get(moves.group(1), "") if moves else ""
        if shown in doubted and one.id in doubted:
            parts = (*span(shown, doubted[shown]), *parts)
        spans[one.id] = parts
    return spans


def ballot(refuted: Sequence[Verdict], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return votes by part: of refuted claims, and faintly of undecided ones.

    A claim's vote is shared out among its parts. Parts that some refuted claim can neither blame
    nor have been reached by are out, if any part is left; then those that no refuted claim speaks
    of: doubts alone accuse nobody.
    """
    spans = parts_of(verdicts)
    reach = [
        set(spans[one.id]) | {b for part in spans[one.id] for b in BEFORE[part]} for one in refuted
    ]
    possible = set(PARTS).intersection(*reach) or set(PARTS)
    spoken = possible & {part for one in refuted for part in spans[one.id]}
    votes = dict.fromkeys(spoken or possible, 0.0)
    unsure = [v for v in verdicts if v.outcome is Outcome.INCONCLUSIVE]
    for weight, group in ((1.0, refuted), (DOUBT, unsure)):
        for one in group:
            for part in set(spans[one.id]) & set(votes):
                votes[part] += weight / len(spans[one.id])
    alone = len(_scorers_blamed(refuted, spans)) < 2
    for part in votes:
        votes[part] *= _credit(part, verdicts, spans)
        if alone and part in ("input", "encoder"):
            votes[part] *= ALONE  # what all three scorers get would show in more than one
    return {part: count for part, count in votes.items() if count > 0}


def _credit(part: str, verdicts: Sequence[Verdict], spans: Mapping[str, tuple[str, ...]]) -> float:
    """Return less than 1 where every claim that speaks of this part alone holds, and some do."""
    own = [v.outcome for v in verdicts if spans[v.id] == (part,)]
    refuted, held = own.count(Outcome.REFUTED), own.count(Outcome.HOLDS)
    return EXONERATED if not refuted and held >= SEVERAL else 1.0


def _entering(
    votes: Mapping[str, float], refuted: Sequence[Verdict], lab: Lab, scorers: set[str]
) -> tuple[str, str]:
    """Tell pictures, queries and coupling apart by donors: the part, and what says so or ""."""
    right = picture_put_right(lab, places=bool(scorers - {"coupling"}))
    if right:
        return "input", f"with pictures {right} the asked object is found"
    said = query_suspected(lab, {one.id for one in refuted})
    if said:
        return "query", said
    cleared = {"query"} | ({"input", "encoder"} if scorers == {"coupling"} else set())
    left = {part: count for part, count in votes.items() if part not in cleared}
    if not left:
        return "coupling", "the query's embedding is as it should be, what is read with it is not"
    return _first_of(left), ""


def _scorers_blamed(refuted: Sequence[Verdict], spans: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return the scorers that some refuted claim blames alone."""
    alone = set()
    for one in refuted:
        parts = set(spans[one.id])
        blamed = parts & set(SCORER_PARTS.values())
        if len(blamed) == 1 and not parts & {"balancing", "attending"}:
            alone |= blamed
    return alone
