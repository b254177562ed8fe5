"""How many units would decide, and whether this check can see an effect of the margin's size.

Source: Student's t power (noncentral t) for `n_needed`; a spiked positive control by resampling
for `detection_rate`.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.flips import EXACT_UP_TO
from arrcoc_verify.stats.interval import LEAST_SPREAD
from arrcoc_verify.stats.sample import (
    MIN_UNITS,
    FloatArray,
    Values,
    check_fraction,
    check_number,
    finite_units,
    same_value,
)

MOST_UNITS = 1_000_000
"""Beyond this many units `n_needed` says that no n would decide."""

EARLY = 1e-3
"""One-sided p at which a simulation that is asked for one side of a rate stops."""

_CHUNK = 1 << 22
_BLOCK = 1 << 12  # resamples whose studentised means stay in the cache
_HITS_AT_ALPHA = 50
_MOST_PATTERNS = 1 << 17


def least_n(alpha: float, chance: float = 0.5) -> int:
    """Return the least n (at least 8) at which a p of `alpha` can be reached at all.

    Args:
        alpha: level after adjustment.
        chance: factor by which the least p falls with each unit: 0.5 for sign flips.
    """
    check_fraction(alpha, "alpha")
    reach = math.log(alpha) / math.log(check_fraction(chance, "chance"))
    return max(MIN_UNITS, math.ceil(reach - 1e-9))


def _t_power(n: int, ratio: float, alpha: float) -> float:
    critical = float(stats.t.isf(alpha, n - 1))
    return float(stats.nct.sf(critical, n - 1, ratio * math.sqrt(n)))


def n_needed(effects: Values, margin: float, alpha: float = 0.01, power: float = 0.8) -> int | None:
    """Return the n at which a one-sided test would decide, if the observed mean and spread hold.

    Either way counts as deciding: above the margin or below it. This is a plan, not a promise: the
    observed mean is itself uncertain.

    Args:
        effects: one effect per unit, shape [n], n >= 2.
        margin: the value that effects are held against.
        alpha: level after adjustment.
        power: chance to decide, 0 < power < 1.

    Returns:
        Units, at least 8 and at least what sign flips need; None when the mean lies on the margin
        or more than a million would be needed.

    Raises:
        NonFinite: an effect is NaN or infinite.
        TooFewUnits: fewer than 2 units.
        UsageError: alpha or power outside (0, 1).
    """
    values = finite_units(effects, least=2) - check_number(margin, "margin")
    floor = least_n(alpha)
    check_fraction(power, "power")
    gap = abs(float(values.mean()))
    if gap == 0.0:
        return None
    spread = 0.0 if same_value(values) else float(values.std(ddof=1))
    if spread == 0.0:
        return floor
    ratio = gap / spread
    start = float((stats.norm.isf(alpha) + stats.norm.ppf(power)) / ratio) ** 2
    if not start < MOST_UNITS:
        return None
    low, high = floor, max(floor, 2 * math.ceil(start) + 20)
    if _t_power(low, ratio, alpha) >= power:
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _t_power(middle, ratio, alpha) >= power else (middle, high)
    return high


def _n_patterns(alpha: float) -> int:
    return min(_MOST_PATTERNS, max(1_999, math.ceil(_HITS_AT_ALPHA / alpha) - 1))


@lru_cache(maxsize=2)  # one family has one n and one level, and many checks
def _patterns(n: int, alpha: float, seed: int) -> FloatArray:
    """Return sign patterns shared by all simulated samples, shape [n, patterns]."""
    if n <= EXACT_UP_TO:
        bits = (np.arange(2**n) >> np.arange(n)[:, None]) & 1
        return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)
    rng = np.random.default_rng((seed, 1))
    signs = rng.integers(2, size=(n, _n_patterns(alpha))) * 2.0 - 1.0
    return np.asarray(signs, dtype=np.float64)


@lru_cache(maxsize=2)
def _shares(n: int, alpha: float, seed: int) -> FloatArray:
    """Return how often each resample drew each unit, divided by n, shape [n, resamples]."""
    rng = np.random.default_rng((seed, 2))
    return rng.multinomial(n, np.full(n, 1.0 / n), size=_n_patterns(alpha)).T / n


def _flip_p(samples: FloatArray, signs: FloatArray) -> FloatArray:
    """Return the sign-flip p of H0 "mean <= 0" for each sample of shape [samples, n]."""
    extra = 0 if samples.shape[1] <= EXACT_UP_TO else 1
    seen = samples.sum(axis=1) - 1e-12 * np.abs(samples).sum(axis=1)
    hits = np.count_nonzero(samples @ signs >= seen[:, None], axis=1)
    return np.asarray((hits + extra) / (signs.shape[1] + extra), dtype=np.float64)


def _bootstrap_p(samples: FloatArray, shares: FloatArray) -> FloatArray:
    """Return the bootstrap-t p of H0 "mean <= 0" for each sample of shape [samples, n].

    Args:
        samples: simulated samples.
        shares: how often a resample drew each unit, divided by n, shape [n, resamples].
    """
    spread = samples.std(axis=1)
    flat = spread <= 1e-12 * np.abs(samples).max(axis=1)
    scale = np.where(flat, 1.0, spread)[:, None]
    unit = (samples - samples.mean(axis=1, keepdims=True)) / scale
    squared, seen = np.square(unit), samples.mean(axis=1, keepdims=True) / scale
    hits = np.zeros(len(samples), dtype=np.int64)
    for at in range(0, shares.shape[1], _BLOCK):
        drawn = shares[:, at : at + _BLOCK]
        shift = unit @ drawn
        bound = squared @ drawn  # becomes the mean that is as extreme as the one seen
        bound -= np.square(shift)
        np.maximum(bound, LEAST_SPREAD**2, out=bound)
        np.sqrt(bound, out=bound)
        bound *= seen
        hits += np.count_nonzero(shift >= bound, axis=1)
    p = (hits + 1) / (shares.shape[1] + 1)
    return np.asarray(np.where(flat, 0.0, p), dtype=np.float64)


def detection_rate(  # noqa: PLR0913 - each is named at the call
    residuals: Values,
    spike: float,
    n: int,
    alpha: float = 0.01,
    n_sims: int = 500,
    seed: int = 0,
    enough: float | None = None,
) -> float:
    """Return how often an effect of known size is detected at level alpha among these residuals.

    Samples of n are drawn with replacement from the centred residuals (scaled by
    sqrt(N / (N - 1)), since centring takes a degree of freedom), the spike is added to each unit,
    and H0 "mean <= 0" is tested as `decide_causes` does: by sign-flip and bootstrap-t, the larger
    p counts. With `spike` = margin this is the spiked positive control: below 0.8 the check cannot
    see what matters, and its verdict is inconclusive. With `spike` = 0 it is the size of the rule
    on effects of this shape. Patterns and resamples are shared by all samples.

    Args:
        residuals: unit effects, shape [N], N >= 2; centred here.
        spike: effect planted in every unit.
        n: units per sample, >= 2.
        alpha: level after adjustment.
        n_sims: samples; the Monte Carlo error is at most 0.5 / sqrt(n_sims).
        seed: of samples, patterns and resamples.
        enough: stop early, after whole tenths of `n_sims`, once the samples so far show at
            p < .001 on which side of this rate the rate lies; None simulates them all.

    Returns:
        A fraction in 0..1; 0 where n allows no p below alpha.

    Raises:
        NonFinite: a residual is NaN or infinite.
        TooFewUnits: fewer than 2 residuals.
        UsageError: spike, n, n_sims or alpha out of range.
    """
    values = finite_units(residuals, "residuals", least=2)
    check_number(spike, "spike")
    check_fraction(alpha, "alpha")
    if n < 2 or n_sims < 1:
        raise UsageError(f"wanted n >= 2 and n_sims >= 1, came {n} and {n_sims}")
    rng = np.random.default_rng(seed)
    centred = (values - values.mean()) * math.sqrt(values.size / (values.size - 1))
    samples = spike + centred[rng.integers(values.size, size=(n_sims, n))]
    if enough is None:
        return _count(samples, alpha, seed) / n_sims
    check_fraction(enough, "enough")
    step, hits, seen = max(1, n_sims // 10), 0, 0
    for start in range(0, n_sims, step):
        part = samples[start : start + step]
        hits, seen = hits + _count(part, alpha, seed), seen + len(part)
        above = float(stats.binom.sf(hits - 1, seen, enough))
        below = float(stats.binom.cdf(hits, seen, enough))
        if min(above, below) < EARLY:
            break
    return hits / seen


def _count(samples: FloatArray, alpha: float, seed: int) -> int:
    """Return in how many samples, shape [samples, n], both tests reject "mean <= 0"."""
    n = samples.shape[1]
    samples = _kept(samples, _flip_p, _patterns(n, alpha, seed), alpha)
    if not len(samples):
        return 0
    return len(_kept(samples, _bootstrap_p, _shares(n, alpha, seed), alpha))


def _kept(
    samples: FloatArray,
    p_of: Callable[[FloatArray, FloatArray], FloatArray],
    drawn: FloatArray,
    alpha: float,
) -> FloatArray:
    """Return the samples whose p is below alpha, computed in parts that fit into memory."""
    step = max(1, _CHUNK // drawn.shape[1])
    parts = [samples[at : at + step] for at in range(0, len(samples), step)]
    return np.concatenate([part[p_of(part, drawn) < alpha] for part in parts])
