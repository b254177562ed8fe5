"""What the first screen says in a line: where a fault shows first, and what the controls did."""

from collections.abc import Sequence
from dataclasses import dataclass

from arrcoc_verify.verdict import STAGES, GateResult, Outcome, Verdict

FLOW = ("input", "query", "encoder", "knowing", "balancing", "attending", "realising")
"""Stages that data passes, in order; the others stand beside the flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first stage with a refuted claim, and how the stages before it did.

    Attributes:
        stage: its name.
        refuted: its refuted claims.
        holding: its claims that hold, which narrow the cause.
        before: stages before it that have claims, in data's order; empty beside the flow.
        sound: whether every claim of those stages holds or does not apply.
        later: further stages with refuted claims, which may only follow from the first.
    """

    stage: str
    refuted: Sequence[Verdict]
    holding: Sequence[Verdict]
    before: Sequence[str]
    sound: bool
    later: Sequence[str]


def first_fault(verdicts: Sequence[Verdict]) -> Fault | None:
    """Return the first stage, in data's order, with a refuted claim; None when there is none."""
    known = [*FLOW, *(stage for stage in STAGES if stage not in FLOW)]
    order = [*known, *sorted({v.stage for v in verdicts} - set(known))]
    refuted = [verdict for verdict in verdicts if verdict.outcome is Outcome.REFUTED]
    failing = [stage for stage in order if any(v.stage == stage for v in refuted)]
    if not failing:
        return None
    stage = failing[0]
    earlier = FLOW[: FLOW.index(stage)] if stage in FLOW else ()
    ahead = [verdict for verdict in verdicts if verdict.stage in earlier]
    quiet = (Outcome.HOLDS, Outcome.NOT_APPLICABLE)
    return Fault(
        stage=stage,
        refuted=[verdict for verdict in refuted if verdict.stage == stage],
        holding=[v for v in verdicts if v.stage == stage and v.outcome is Outcome.HOLDS],
        before=[name for name in earlier if any(v.stage == name for v in ahead)],
        sound=all(verdict.outcome in quiet for verdict in ahead),
        later=failing[1:],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """How the controls inside the claims of this run ended."""

    right: int
    many: int
    missed: Sequence[Verdict]


def controls(verdicts: Sequence[Verdict]) -> Controls:
    """Return how many controls did what they must, and the claims in which one did not."""
    ends = [end for verdict in verdicts for end in verdict.controls.values()]
    right = ("fired", "silent")
    missed = [v for v in verdicts if any(end not in right for end in v.controls.values())]
    return Controls(right=sum(end in right for end in ends), many=len(ends), missed=missed)


def bound(gate: GateResult) -> str:
    """Return `at most` or `at least`: on which side of its limit a gate's reading had to lie.

    A gate's record has no direction, but its result and its two numbers imply one; empty when the
    gate was not decided by them.
    """
    if gate.measured is None or gate.limit is None or gate.passed is None:
        return ""
    if gate.measured == gate.limit:
        return "at most" if gate.passed else ""
    return "at most" if (gate.measured < gate.limit) == gate.passed else "at least"
