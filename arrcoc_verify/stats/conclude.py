"""From decisions to outcomes: adjust a family's p-values once, then say what holds.

Source: Holm 1979; Westfall & Young 1993 for claims that share units; a weighted Bonferroni split
joins the two without any assumption on their dependence.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.decide import Decision
from arrcoc_verify.stats.multiplicity import holm
from arrcoc_verify.stats.permutation import Alternative, max_t
from arrcoc_verify.stats.power import least_n, n_needed
from arrcoc_verify.stats.sample import FloatArray, check_fraction
from arrcoc_verify.verdict import Outcome


def _check_groups(decisions: Sequence[Decision], shared: Sequence[Sequence[int]]) -> None:
    flat = [at for group in shared for at in group]
    if len(set(flat)) != len(flat) or any(not 0 <= at < len(decisions) for at in flat):
        raise UsageError(f"shared: wanted disjoint indices of decisions, came {shared}")
    for group in shared:
        members = [decisions[at] for at in group]
        usable = [d for d in members if d.outcome is Outcome.INCONCLUSIVE and d.excess]
        if any(not d.sign_flip for d in usable) or len({d.n for d in usable}) > 1:
            raise UsageError(
                f"shared group {list(group)}: max-t needs `decide_causes` on the same units; "
                "leave the others to Holm"
            )


def _adjust(
    decisions: Sequence[Decision],
    shared: Sequence[Sequence[int]],
    side: Alternative,
    alpha: float,
    seed: int,
) -> FloatArray:
    """Return adjusted p of every decision (NaN for contracts, which have none)."""
    raw = np.array(
        [np.nan if d.p_hold is None else d.p_hold for d in decisions]
        if side == "greater"
        else [np.nan if d.p_refute is None else d.p_refute for d in decisions]
    )
    tested = [at for at, d in enumerate(decisions) if d.p_hold is not None]
    adjusted = np.full(len(decisions), np.nan)
    rest = set(tested)
    for group in shared:
        weight = sum(at in rest for at in group) / max(1, len(tested))
        usable = [at for at in group if decisions[at].excess]
        adjusted[[at for at in group if at in rest]] = 1.0
        rest -= set(group)
        if usable:
            table = np.array([decisions[at].excess for at in usable]).T
            p = max_t(table, 0.0, side, alpha * weight, seed)
            # never below the claim's own p, which guards against skew and max-t does not
            adjusted[usable] = np.maximum(raw[usable], np.minimum(1.0, p / weight))
    left = sorted(rest)
    if left:
        p = holm(raw[left])
        adjusted[left] = np.minimum(1.0, p * len(tested) / len(left))
    return adjusted


def _outcome(hold: float, refute: float, alpha: float) -> tuple[Outcome, str]:
    """Return outcome and reason; written so that a NaN can only be inconclusive."""
    holds, refuted = hold < alpha, refute < alpha
    if holds and refuted:
        return Outcome.INCONCLUSIVE, "both directions reject: the readings contradict each other"
    if holds:
        return Outcome.HOLDS, f"shown at the adjusted level: p = {hold:.2g} < {alpha:g}"
    if refuted:
        return Outcome.REFUTED, f"its contrary is shown: p = {refute:.2g} < {alpha:g}"
    return (
        Outcome.INCONCLUSIVE,
        f"neither shown (p = {hold:.2g}) nor refuted (p = {refute:.2g}) at {alpha:g}",
    )


def conclude(
    decisions: Sequence[Decision],
    alpha: float = 0.01,
    shared: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> tuple[Decision, ...]:
    """Return the decisions of one family with adjusted p-values and outcomes, in input order.

    All p_hold are adjusted by Holm and, separately, all p_refute: each kind of error is kept below
    `alpha` over the family. A decision holds iff its adjusted p_hold < alpha, is refuted iff its
    adjusted p_refute < alpha, else it is inconclusive with the n that would decide. Invalid,
    unmeasured and too small ones count in the family (with p = 1), so that dropping a claim never
    makes another one easier; contracts have no p and pass through.

    Args:
        decisions: the whole family.
        alpha: family-wise level, 0 < alpha < 1.
        shared: groups of indices, chosen beforehand, of `decide_causes` decisions whose units are
            the same in the same order; each is adjusted by max-t instead of Holm, at the part of
            alpha that its size deserves.
        seed: of max-t's random patterns.

    Raises:
        UsageError: alpha outside (0, 1), or a group that cannot share.
    """
    check_fraction(alpha, "alpha")
    _check_groups(decisions, shared)
    holds = _adjust(decisions, shared, "greater", alpha, seed)
    refutes = _adjust(decisions, shared, "less", alpha, seed)
    tested = sum(d.p_hold is not None for d in decisions)
    return tuple(
        _concluded(decision, float(hold), float(refute), alpha, tested)
        for decision, hold, refute in zip(decisions, holds, refutes, strict=True)
    )


def _concluded(
    decision: Decision, hold: float, refute: float, alpha: float, tested: int
) -> Decision:
    if decision.p_hold is None:
        return decision
    scored = replace(decision, p_hold_adjusted=hold, p_refute_adjusted=refute)
    if not decision.excess:  # invalid, not run or too few: final, whatever the p-values
        return scored
    outcome, reason = _outcome(hold, refute, alpha)
    if outcome is not Outcome.INCONCLUSIVE:
        return replace(scored, outcome=outcome, reason=reason)
    reason, planned = _plan(decision, reason, alpha / tested)
    return replace(scored, outcome=outcome, reason=reason, n_needed=planned)


def _plan(decision: Decision, reason: str, strictest: float) -> tuple[str, int | None]:
    """Return why it is undecided and the n that would decide, at the strictest adjusted level."""
    least = max(least_n(strictest, decision.chance), decision.n + 1)
    if not decision.least_p < strictest:
        reason = (
            f"{decision.n} units cannot show it: the least p that they allow is "
            f"{decision.least_p:.2g}, the adjusted level {strictest:.2g}; "
        )
        if decision.chance**decision.n < strictest:
            return reason + f"draw more sign patterns (decide with alpha={strictest:.2g})", None
        reason += f"at least {least} are needed"
    planned = n_needed(decision.excess, 0.0, strictest)
    if planned is None:
        return reason + "; the effect lies so near its margin that no n would decide", None
    planned = max(planned, least)
    return reason + f"; about {planned} units would decide at the observed spread", planned


def with_control(decision: Decision, rate: float, least: float = 0.8) -> Decision:
    """Return the decision, made inconclusive unless its spiked positive control was detected.

    Args:
        decision: a concluded decision.
        rate: detection rate of an effect of the margin's size, such as `power.detection_rate`.
        least: the rate below which the check is blind to what matters.
    """
    if rate >= least or decision.outcome not in (Outcome.HOLDS, Outcome.REFUTED):
        return decision
    return replace(
        decision,
        outcome=Outcome.INCONCLUSIVE,
        reason=f"an effect of the margin's size is detected in {rate:.0%} of samples, less than "
        f"{least:.0%}; was: {decision.outcome}, {decision.reason}",
    )
