"""Which stage the evidence points to, found without a sound twin.

A gate that failed is repeated with every site read: the first site that differs lies at the fault,
since what comes before it is as it should be. Claims vote for the parts between what they write and
what they read; the fault lies in a part that all refuted ones can blame. Between pictures, queries
and the scorer that joins them, donors decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from arrcoc_verify.lab import Lab
from arrcoc_verify.locating.differing import first_of_gates
from arrcoc_verify.locating.donors import picture_put_right, query_suspected
from arrcoc_verify.suite.spans import BEFORE, PARTS, SCORER_PARTS, part_of_role, span
from arrcoc_verify.verdict import GateResult, Outcome, Verdict

CRASHED = "the check could not be made"
"""How the reason of a check begins that raised: it says nothing of what it checks."""
SCORED = {"information": "information", "salience": "salience", "query_relevance": "coupling"}
EXONERATED, SEVERAL = 0.25, 3
"""What is left of the votes for a part that several claims of its own speak for."""
ALONE = 0.5
"""What is left of the votes for pictures and encoder when only one scorer is blamed."""
DOUBT = 0.3
"""Weight of a claim that is undecided against one that is refuted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Where the fault seems to lie.

    Attributes:
        stage: one of `STAGES`.
        part: the part of it, such as a scorer.
        site: first site that differs, or "".
        reason: the experiment that says so.
    """

    stage: str
    part: str
    site: str
    reason: str


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
    found = _of_gates(failed, selected)
    if found is not None:
        return found
    if not refuted and not failed:
        return None
    return _of_claims(refuted, verdicts, asserted)


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
    votes = ballot(refuted, verdicts)
    if not votes:
        return None
    order = list(PARTS)
    part = max(votes, key=lambda name: (round(votes[name], 9), -order.index(name)))
    reason = f"{_count(refuted, part)} of {len(refuted)} refuted claims speak of it"
    if part in ("input", "encoder", "query", "coupling"):
        part, reason = _entering(part, reason, refuted, lab)
    return Suspect(stage=PARTS[part], part=part, site="", reason=reason)


def _count(refuted: Sequence[Verdict], part: str) -> int:
    return sum(part in _parts(one) for one in refuted)


def _parts(one: Verdict) -> tuple[str, ...]:
    """Return the parts of a claim, without the scorers whose own figures are fine."""
    parts = span(one.id, one.stage)
    figures = {SCORED[k]: v for k, v in one.numbers.items() if k in SCORED}
    if not figures or len(set(figures) & set(parts)) < 2:
        return parts
    worst = max(figures.values())
    fine = {part for part, value in figures.items() if value < 0.5 * worst}
    return tuple(part for part in parts if part not in fine)


def ballot(refuted: Sequence[Verdict], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return votes by part: of refuted claims, and faintly of undecided ones.

    A claim's vote is shared out among its parts. Parts that some refuted claim can neither blame
    nor have been reached by are out, if any part is left.
    """
    spans = [set(_parts(one)) for one in refuted]
    reach = [parts | {b for part in parts for b in BEFORE[part]} for parts in spans]
    possible = set(PARTS).intersection(*reach) if reach else set(PARTS)
    votes = dict.fromkeys(possible or set(PARTS), 0.0)
    unsure = [v for v in verdicts if v.outcome is Outcome.INCONCLUSIVE]
    for weight, group in ((1.0, refuted), (DOUBT, unsure)):
        for one in group:
            parts = _parts(one)
            for part in set(parts) & set(votes):
                votes[part] += weight / len(parts)
    for part in votes:
        votes[part] *= _credit(part, verdicts)
    if len(_scorers_blamed(refuted)) < 2:  # what all three scorers get would show in more than one
        for part in {"input", "encoder"} & set(votes):
            votes[part] *= ALONE
    return {part: count for part, count in votes.items() if count > 0}


def _credit(part: str, verdicts: Sequence[Verdict]) -> float:
    """Return less than 1 where every claim that speaks of this part alone holds, and some do."""
    own = [v.outcome for v in verdicts if _parts(v) == (part,)]
    refuted, held = own.count(Outcome.REFUTED), own.count(Outcome.HOLDS)
    return EXONERATED if not refuted and held >= SEVERAL else 1.0


def _entering(part: str, reason: str, refuted: Sequence[Verdict], lab: Lab) -> tuple[str, str]:
    """Tell pictures, queries and coupling apart by donors."""
    scorers = _scorers_blamed(refuted)
    right = picture_put_right(lab, places=len(scorers) > 1)
    if right:
        return "input", f"with pictures {right} the asked object is found"
    said = query_suspected(lab, {one.id for one in refuted})
    if said:
        return "query", said
    if part == "query" or (part in ("input", "encoder") and scorers == {"coupling"}):
        return "coupling", f"{reason}; the query's embedding is as it should be"
    return part, reason


def _scorers_blamed(refuted: Sequence[Verdict]) -> set[str]:
    """Return the scorers that some refuted claim blames alone."""
    alone = set()
    for one in refuted:
        blamed = set(_parts(one)) & set(SCORER_PARTS.values())
        if len(blamed) == 1 and not set(_parts(one)) & {"balancing", "attending"}:
            alone |= blamed
    return alone
