"""The decision rules of claims: readings in, p-values out, and one place that concludes.

`decide_*` reads one claim and gives p-values in both directions; `conclude` adjusts them for the
family and sets outcomes. Before `conclude` nothing holds (except contracts, which need no
statistics). A value that is not finite makes a decision `invalid`; it never raises and never
holds. Source: Holm 1979; Westfall & Young 1993; Clopper & Pearson 1934.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.equivalence import QuantileRule, bounded_distance, log_readings
from arrcoc_verify.stats.flips import n_flips_for, smallest_p
from arrcoc_verify.stats.interval import mean_interval, proportion_interval
from arrcoc_verify.stats.permutation import sign_flip
from arrcoc_verify.stats.sample import (
    MIN_UNITS,
    FloatArray,
    Values,
    check_fraction,
    check_number,
)
from arrcoc_verify.stats.tails import MeanTails, n_tail_resamples
from arrcoc_verify.verdict import Estimate, Outcome

LARGEST = 1e60
"""Readings beyond this count as not finite: their squares' squares would overflow."""

WAITING = "not yet adjusted for its family: pass it to conclude()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one claim's readings say.

    Attributes:
        outcome: inconclusive until `conclude` has adjusted for the family, unless it is final.
        reason: one sentence.
        effect: the estimate behind it; None when there was nothing to estimate from.
        null: the same reading on placebos.
        p_hold: p of H0 "the claim is false", unadjusted; None for contracts.
        p_refute: p of H0 "the claim is true", unadjusted; None for contracts.
        n: independent units (or trials, or cases).
        n_needed: when inconclusive, the n that would decide at the observed spread, if any would.
        p_hold_adjusted: after the family's adjustment.
        p_refute_adjusted: after the family's adjustment.
        excess: per unit, how far it lies on the claim's side of its margin (distances: in logs, see
            `log_readings`); empty for contracts.
        least_p: least p_hold that n allows.
        chance: factor by which the least p_hold falls with each further unit.
        sign_flip: whether both p test the mean of `excess` by sign flips (what max-t may share).
        numbers: further figures by name.
    """

    outcome: Outcome
    reason: str
    effect: Estimate | None = None
    null: Estimate | None = None
    p_hold: float | None = None
    p_refute: float | None = None
    n: int = 0
    n_needed: int | None = None
    p_hold_adjusted: float | None = None
    p_refute_adjusted: float | None = None
    excess: tuple[float, ...] = ()
    least_p: float = 1.0
    chance: float = 0.5
    sign_flip: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)


def _unusable(values: Mapping[str, FloatArray]) -> Decision | None:
    """Return the final decision for readings that no test may see, or None if they are usable."""
    n = len(next(iter(values.values())))
    for name, table in values.items():
        usable = np.abs(table) <= LARGEST  # False for NaN too
        bad = np.unique(np.argwhere(~usable)[:, 0]) if table.size else np.empty(0)
        if len(bad):
            units = ", ".join(str(int(at)) for at in bad[:5]) + (", ..." if len(bad) > 5 else "")
            return Decision(
                outcome=Outcome.INVALID,
                reason=f"{name} of {len(bad)} of {n} units are not finite (unit {units})",
                p_hold=1.0,
                p_refute=1.0,
                n=n,
            )
    if n == 0:
        reason = "no unit was measured"
        return Decision(outcome=Outcome.NOT_RUN, reason=reason, p_hold=1.0, p_refute=1.0)
    if n < MIN_UNITS:
        return Decision(
            outcome=Outcome.INCONCLUSIVE,
            reason=f"{n} units are too few: at least {MIN_UNITS} are needed",
            p_hold=1.0,
            p_refute=1.0,
            n=n,
            n_needed=MIN_UNITS,
            least_p=1.0,
        )
    return None


def _placebo_means(placebos: Values, n: int) -> tuple[FloatArray, FloatArray]:
    table = np.asarray(placebos, dtype=np.float64)
    if table.ndim not in (1, 2) or table.shape[0] != n or (table.ndim == 2 and not table.shape[1]):
        raise UsageError(f"placebos: wanted shape [{n}] or [{n}, k >= 1], came {table.shape}")
    with np.errstate(invalid="ignore"):
        means = table if table.ndim == 1 else table.mean(axis=1)
    return table, np.asarray(means, dtype=np.float64)


def _least_p(n: int, alpha: float) -> float:
    return max(smallest_p(n, n_flips_for(n, alpha)), 1.0 / (n_tail_resamples(alpha) + 1))


def decide_causes(  # noqa: PLR0913  (what is fixed before a run is spelt out, by keyword)
    effects: Values,
    placebos: Values | None = None,
    *,
    margin: float,
    alpha: float = 0.01,
    level: float = 0.95,
    seed: int = 0,
    unit: str = "",
) -> Decision:
    """Test whether the mean unit effect, beyond that of placebos, exceeds the margin.

    The statistic is each unit's effect minus its mean placebo effect. p_hold tests H0
    "mean <= margin", p_refute tests H0 "mean >= margin". Each p is the larger one of the sign-flip
    (exact for symmetric effects, far too bold for skewed ones at strict levels) and of bootstrap-t
    (which corrects for most of the skew): with symmetry the error never exceeds the level, with
    skew it exceeds it by less; `calibration` measures how much.

    Args:
        effects: one effect per independent unit, signed so that positive is as claimed, shape [n].
        placebos: the same reading under placebo edits, shape [n] or [n, k]; None without.
        margin: smallest effect that matters, in `unit`, fixed before the run.
        alpha: the level p will be held against after adjustment: family alpha / claims.
        level: of the intervals.
        seed: of resampling.
        unit: unit of the effects.

    Returns:
        A decision that waits for `conclude`; invalid when a value is not finite, not_run without
        units, inconclusive below 8.

    Raises:
        UsageError: shapes, margin, alpha or level that make no sense.
    """
    check_number(margin, "margin"), check_fraction(alpha, "alpha"), check_fraction(level, "level")
    values = np.asarray(effects, dtype=np.float64)
    if values.ndim != 1:
        raise UsageError(f"effects: wanted one per unit, shape [n]; came {values.shape}")
    readings, means = {"effects": values}, None
    if placebos is not None:
        readings["placebo effects"], means = _placebo_means(placebos, values.size)
    final = _unusable(readings)
    if final is not None:
        return final
    net = values if means is None else values - means
    tails = MeanTails(net, "bootstrap-t", alpha, seed)
    return Decision(
        outcome=Outcome.INCONCLUSIVE,
        reason=WAITING,
        effect=mean_interval(net, level, seed, unit=unit),
        null=None if means is None else mean_interval(means, level, seed, unit=unit),
        p_hold=max(sign_flip(net, margin, "greater", alpha, seed).p, tails.p_above(margin)),
        p_refute=max(sign_flip(net, margin, "less", alpha, seed).p, tails.p_below(margin)),
        n=net.size,
        excess=tuple(float(value) for value in net - margin),
        least_p=_least_p(net.size, alpha),
        sign_flip=True,
    )


def decide_no_effect(  # noqa: PLR0913
    distances: Values,
    *,
    margin: float,
    alpha: float = 0.01,
    level: float = 0.95,
    seed: int = 0,
    unit: str = "",
    quantile_rule: QuantileRule = "observed",
) -> Decision:
    """Test whether a non-negative distance stays inside the margin (`bounded_distance`).

    Args:
        distances: one per independent unit, shape [n], each >= 0.
        margin: largest distance that does not matter, > 0, in `unit`.
        alpha: the level p will be held against after adjustment: family alpha / claims.
        level: of the intervals.
        seed: of resampling.
        unit: unit of the distances.
        quantile_rule: `observed`, or `exact` (needs `n_for_quantile` units).

    Returns:
        As `decide_causes`; `numbers` holds the 95th percentile and its bounds.

    Raises:
        UsageError: a negative distance, or margin, alpha or level that make no sense.
    """
    check_fraction(alpha, "alpha"), check_fraction(level, "level")
    values = np.asarray(distances, dtype=np.float64)
    if values.ndim != 1:
        raise UsageError(f"distances: wanted one per unit, shape [n]; came {values.shape}")
    if not margin > 0.0 or not math.isfinite(margin):
        raise UsageError(f"margin: wanted a finite distance > 0, came {margin}")
    final = _unusable({"distances": values})
    if final is not None:
        return final
    found = bounded_distance(values, margin, level, alpha, seed, quantile_rule)
    chance = 0.95 if quantile_rule == "exact" else 0.5
    return Decision(
        outcome=Outcome.INCONCLUSIVE,
        reason=WAITING,
        effect=replace(found.rms, unit=unit, method=f"root mean square, {found.rms.method}"),
        p_hold=found.p_inside,
        p_refute=found.p_outside,
        n=values.size,
        excess=tuple(float(value) for value in -log_readings(values, margin)),
        least_p=max(_least_p(values.size, alpha), chance**values.size),
        chance=chance,
        numbers={"p95": found.p95.value, "p95_low": found.p95.low, "p95_high": found.p95.high},
    )


def decide_proportion(
    successes: int, n: int, *, at_least: float, level: float = 0.95, unit: str = "fraction"
) -> Decision:
    """Test exactly (binomial) whether a success rate is at least `at_least`.

    p_hold tests H0 "rate <= at_least", p_refute tests H0 "rate >= at_least".

    Args:
        successes: 0..n.
        n: independent trials: one per unit, never one per patch.
        at_least: the rate claimed, 0 < at_least < 1; for "always" use `decide_contract`.
        level: of the Clopper-Pearson interval.
        unit: unit of the estimate.

    Raises:
        UsageError: counts or rates that make no sense.
    """
    check_fraction(at_least, "at_least (for 'always' use decide_contract)")
    successes, n = operator.index(successes), operator.index(n)
    if not 0 <= successes <= n:
        raise UsageError(f"wanted 0 <= successes <= n, came {successes} of {n}")
    final = _unusable({"trials": np.zeros(n)})
    if final is not None:
        return final
    hits = (1.0 - at_least,) * successes + (-at_least,) * (n - successes)
    return Decision(
        outcome=Outcome.INCONCLUSIVE,
        reason=WAITING,
        effect=proportion_interval(successes, n, level, unit),
        p_hold=float(stats.binom.sf(successes - 1, n, at_least)),
        p_refute=float(stats.binom.cdf(successes, n, at_least)),
        n=n,
        excess=hits,
        least_p=at_least**n,
        chance=at_least,
    )


def decide_contract(
    violations: int, cases: int, exercised: Mapping[str, int] | None = None
) -> Decision:
    """Judge a rule that must hold in every case: any counterexample refutes it.

    Args:
        violations: cases that broke the rule.
        cases: cases that were tried.
        exercised: what the cases had to meet, name -> count; a count of 0 makes it inconclusive.

    Returns:
        A final decision without p-values; `conclude` hands it through.

    Raises:
        UsageError: counts that do not fit together.
    """
    violations, cases = operator.index(violations), operator.index(cases)
    if not 0 <= violations <= cases:
        raise UsageError(f"wanted 0 <= violations <= cases, came {violations} of {cases}")
    unmet = sorted(name for name, count in (exercised or {}).items() if not count > 0)
    if cases == 0:
        outcome, reason = Outcome.NOT_RUN, "no case was tried"
    elif violations > 0:
        outcome, reason = Outcome.REFUTED, f"{violations} of {cases} cases break the rule"
    elif unmet:
        outcome = Outcome.INCONCLUSIVE
        reason = f"no violation in {cases} cases, but none of them met: {', '.join(unmet)}"
    else:
        outcome, reason = Outcome.HOLDS, f"no violation in {cases} cases"
    numbers = {"violations": float(violations), "cases": float(cases)}
    return Decision(outcome=outcome, reason=reason, n=cases, numbers=numbers)
