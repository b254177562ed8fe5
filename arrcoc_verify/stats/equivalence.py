"""Showing that something is small: TOST for signed effects, upper bounds for distances.

Source: Schuirmann 1987 (two one-sided tests); Land 1972 (means of lognormal values); Hahn &
Meeker 1991 (order-statistic bounds of quantiles). "Not significant" is never evidence of equality,
and signed means cancel, so a claim of no effect bounds a non-negative distance. Every rule is
"reject unless inside".
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.interval import IntervalMethod, mean_interval
from arrcoc_verify.stats.permutation import sign_flip
from arrcoc_verify.stats.sample import (
    MIN_UNITS,
    FloatArray,
    Values,
    check_fraction,
    check_number,
    finite_units,
)
from arrcoc_verify.stats.tails import MeanTails
from arrcoc_verify.verdict import Estimate

_LEAST_RATIO = 0.1

QuantileRule = Literal["observed", "exact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """What TOST found.

    Attributes:
        p_inside: p of H0 "the mean lies outside (low, high)"; small means inside.
        p_outside: p of H0 "the mean lies inside"; small means outside.
        interval: interval of the mean at the level asked; inside at level alpha is the same as
            the interval of level 1 - 2 alpha lying inside the margins.
        method: `t` or `bootstrap-t`.
    """

    p_inside: float
    p_outside: float
    interval: Estimate
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedDistance:
    """What bounding a distance from above found.

    Attributes:
        p_inside: p of H0 "root mean square or 95th percentile >= margin".
        p_outside: p of H0 "root mean square and 95th percentile <= margin".
        rms: root mean square over units with its interval.
        p95: observed 95th percentile with its order-statistic interval; `high` is infinite where
            n is too small to bound it.
        quantile_rule: which rule the 95th percentile had to keep.
    """

    p_inside: float
    p_outside: float
    rms: Estimate
    p95: Estimate
    quantile_rule: QuantileRule


def tost(
    x: Values,
    margins: tuple[float, float],
    method: Literal["t", "bootstrap-t"] = "t",
    level: float = 0.9,
    alpha: float = 0.01,
    seed: int = 0,
) -> Equivalence:
    """Test whether the mean of paired effects lies inside margins fixed beforehand.

    Equal values have no spread to test with: p is then the least that n units allow (2**-n up to
    16), never 0.

    Args:
        x: one signed effect per unit, shape [n], n >= 8.
        margins: (low, high) in the unit of the effects, low < high.
        method: `t` (Schuirmann) or `bootstrap-t` (skewed effects).
        level: of the interval.
        alpha: level that p will be held against; sets the resamples of bootstrap-t.
        seed: of the resampling.

    Raises:
        TooFewUnits: n < 8.
        NonFinite: an effect is NaN or infinite.
        UsageError: margins that are not low < high, or an unknown method.
    """
    values = finite_units(x, least=MIN_UNITS)
    low, high = (check_number(bound, "margin") for bound in margins)
    if not low < high:
        raise UsageError(f"wanted margins low < high, came {low} and {high}")
    tails = MeanTails(values, method, alpha, seed)
    kind: IntervalMethod = method
    return Equivalence(
        p_inside=max(tails.p_below(high), tails.p_above(low)),
        p_outside=min(1.0, 2.0 * min(tails.p_above(high), tails.p_below(low))),
        interval=mean_interval(values, level, seed, kind),
        method=method,
    )


def n_for_quantile(alpha: float, quantile: float = 0.95) -> int:
    """Return the least n at which an order statistic can bound the quantile at level alpha.

    The n with quantile**n <= alpha: 59 at 5 %, 90 at 1 % for the 95th percentile.
    """
    check_fraction(alpha, "alpha")
    return math.ceil(math.log(alpha) / math.log(check_fraction(quantile, "quantile")))


def quantile_interval(x: Values, quantile: float, level: float, unit: str = "") -> Estimate:
    """Return an observed quantile with its distribution-free (order-statistic) interval.

    The value is the order statistic of rank ceil(quantile * n), so up to 20 units the 95th
    percentile is near the largest. An end that n cannot bound is infinite.

    Raises:
        TooFewUnits: n < 8.
        NonFinite: a value is NaN or infinite.
    """
    values = np.sort(finite_units(x, least=MIN_UNITS))
    n, tail = values.size, (1.0 - check_fraction(level, "level")) / 2.0
    check_fraction(quantile, "quantile")
    lower = int(stats.binom.ppf(tail, n, quantile))
    upper = int(stats.binom.ppf(1.0 - tail, n, quantile)) + 1
    return Estimate(
        value=float(values[math.ceil(quantile * n - 1e-9) - 1]),
        low=float(values[lower - 1]) if lower >= 1 else -math.inf,
        high=float(values[upper - 1]) if upper <= n else math.inf,
        level=level,
        n=n,
        unit=unit,
        method="order statistic",
    )


def _quantile_p(values: FloatArray, margin: float, rule: QuantileRule) -> tuple[float, float]:
    """Return p for "95th percentile inside" and for "outside", by counting excesses."""
    n, excesses = values.size, int(np.count_nonzero(~(values < margin)))
    outside = float(stats.binom.sf(int(np.count_nonzero(values > margin)) - 1, n, 0.05))
    if rule == "exact":
        return float(stats.binom.cdf(excesses, n, 0.05)), outside
    observed = n - math.ceil(0.95 * n - 1e-9)
    return (0.0 if excesses <= observed else 1.0), outside


def log_readings(distances: FloatArray, margin: float) -> FloatArray:
    """Return readings whose mean is the log of root mean square over margin, shape [n].

    For lognormal distances log rms = mu + sigma**2 with y = log(distance / margin), estimated by
    mean(y) + s**2 with variance s**2 (1 + 2 s**2) / n (Cox's method, in Land 1972). Stretching y
    about that value by sqrt(1 + 2 s**2) gives a sample whose ordinary t-test is this estimate's.
    Distances below a tenth of the margin count as a tenth: how small the small ones are, 0
    included, must not add spread.

    Args:
        distances: finite, >= 0, shape [n], n >= 2.
        margin: > 0.
    """
    y = np.log(np.maximum(distances / margin, _LEAST_RATIO))
    variance = float(y.var(ddof=1))
    stretched = (y - y.mean()) * math.sqrt(1.0 + 2.0 * variance)
    return np.asarray(y.mean() + variance + stretched, dtype=np.float64)


def bounded_distance(
    distances: Values,
    margin: float,
    level: float = 0.95,
    alpha: float = 0.01,
    seed: int = 0,
    quantile_rule: QuantileRule = "observed",
) -> BoundedDistance:
    """Bound a non-negative distance from above: root mean square and 95th percentile.

    The root mean square is inside when three tests reject "root mean square >= margin" and p is the
    largest of theirs: sign-flip and bootstrap-t on the squares, and the t-test of `log_readings`.
    Squares have long tails that few units do not show: with 22 lognormal distances whose root mean
    square *is* the margin, the first two call them inside at p < .0003 in 6 % of samples, all
    three in .6 % (at p < .01: 8 and 5 %; half-normal ones at no level more often than it says).
    The price: what is shown at p < .0003 by 22 units, four times in five, is a root mean square of
    a third of the margin, seldom one of half of it.

    For the 95th percentile `exact` counts units at or beyond the margin (binomial and free of
    assumptions, but needs 90 units at 1 %: see `n_for_quantile`); `observed` asks that the
    observed percentile be inside, and reports its bound without controlling its error. A sample
    cannot exclude rare large distances that it did not meet; only `exact` says how rare.

    Args:
        distances: one distance per unit, shape [n], n >= 8, each >= 0.
        margin: largest distance that does not matter, > 0, in the unit of the distances.
        level: of the intervals.
        alpha: level that p will be held against; sets the resamples.
        seed: of the resampling.
        quantile_rule: `observed` or `exact`, chosen beforehand.

    Raises:
        TooFewUnits: n < 8.
        NonFinite: a distance is NaN or infinite.
        UsageError: a negative distance, margin <= 0, or an unknown rule.
    """
    values = finite_units(distances, "distances", least=MIN_UNITS)
    if not margin > 0.0 or not math.isfinite(margin):
        raise UsageError(f"margin: wanted a finite distance > 0, came {margin}")
    if bool((values < 0.0).any()):
        raise UsageError(f"distances: wanted values >= 0, least is {values.min()}")
    if quantile_rule not in ("observed", "exact"):
        raise UsageError(f"quantile_rule {quantile_rule!r}: wanted observed or exact")
    check_fraction(alpha, "alpha")
    squares, bound = np.square(values / margin), 1.0
    tails = MeanTails(squares, "bootstrap-t", alpha, seed)
    inside, outside = _quantile_p(values, margin, quantile_rule)
    below = sign_flip(squares, bound, "less", alpha, seed).p
    skewed = MeanTails(log_readings(values, margin), "t", alpha, seed).p_below(0.0)
    above = sign_flip(squares, bound, "greater", alpha, seed).p
    return BoundedDistance(
        p_inside=max(tails.p_below(bound), below, skewed, inside),
        p_outside=min(1.0, 2.0 * min(max(tails.p_above(bound), above), outside)),
        rms=_rms(values, margin, level, seed),
        p95=quantile_interval(values, 0.95, level),
        quantile_rule=quantile_rule,
    )


def _rms(values: FloatArray, margin: float, level: float, seed: int) -> Estimate:
    square = mean_interval(np.square(values / margin), level, seed)
    value, low, high = (
        margin * math.sqrt(max(end, 0.0)) for end in (square.value, square.low, square.high)
    )
    return Estimate(
        value=value, low=low, high=high, level=level, n=values.size, unit="", method=square.method
    )
