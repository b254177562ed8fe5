"""Shares of the variance of a reading that a balanced factorial of edits causes.

Source: Fisher's analysis of variance in the orthonormal basis of a 2**4 factorial (Box, Hunter &
Hunter, Statistics for Experimenters, ch. 5), with units as blocks. One-factor pairs cannot show
interactions; all sixteen combinations in every unit can. BCa after Efron 1987.

With c[u, S] the coefficient of unit u on the +-1 product S of factors, the within-unit variance
is the mean over units of the sum over S of c**2. Each S splits into what all units share,
mean(c)**2, and what differs between units, var(c). The plug-in mean(c)**2 is too large by
var(c) / n; subtracting that makes it unbiased and adding it back to the remainder keeps the sum
exact: mean(c)**2 - s2 / n + s2 = mean(c**2). A share may therefore be slightly negative.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from arrcoc_verify.errors import TooFewUnits, UsageError
from arrcoc_verify.stats.sample import MIN_UNITS, FloatArray, Values, check_finite, check_fraction
from arrcoc_verify.verdict import Estimate

FACTORS = ("information", "salience", "query", "position")
"""Axes 1..4 of the readings, each with two levels."""

_SETS = tuple(s for size in range(5) for s in combinations(range(4), size))
_PAIRS = tuple(s for s in _SETS if len(s) == 2)

COMPONENTS = (
    *FACTORS,
    *(f"{FACTORS[a]} x {FACTORS[b]}" for a, b in _PAIRS),
    "higher interactions",
    "nuisance",
    "noise",
)
"""Names of the shares, in order; `noise` is 0 without replicates."""

_GROUP = np.array([{1: at - 1, 2: at - 1, 3: 10, 4: 10}.get(len(s), -1) for at, s in
                   enumerate(_SETS)][1:])  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """What share of the within-unit variance each factor causes.

    Attributes:
        shares: component -> share with its interval; the values sum to 1.
        coefficients: product of factors -> mean coefficient over units (half the difference
            between levels, in the unit of the readings), so the direction is not lost.
        within: within-unit variance, in squared units of the readings.
        between: variance of the units' means, unbiased, in the same unit; no part of the shares.
        n: units.
        varies: False when nothing moves the reading; all shares are then 0 and sum to 0.
    """

    shares: dict[str, Estimate]
    coefficients: dict[str, float]
    within: float
    between: float
    n: int
    varies: bool


def _coefficients(cells: FloatArray) -> FloatArray:
    """Return coefficients on all sixteen products of factors, shape [n, 16]."""
    flat = cells.reshape(len(cells), 16)
    levels = np.indices((2, 2, 2, 2)).reshape(4, 16) * 2.0 - 1.0
    basis = np.array([np.prod(levels[list(s)], axis=0) for s in _SETS])
    return np.asarray(flat @ basis.T / 16.0, dtype=np.float64)


def _parts(c: FloatArray, noise: FloatArray, replicates: int) -> FloatArray:
    """Return the components of the variance over the units axis, shape [..., 13].

    Args:
        c: coefficients without the constant, shape [..., n, 15].
        noise: within-cell variance of each unit, unbiased, shape [..., n]; zeros at 1 replicate.
        replicates: readings per cell.
    """
    n = c.shape[-2]
    spread = c.var(axis=-2, ddof=1)
    shared = c.mean(axis=-2) ** 2 - spread / n
    within_cell = noise.mean(axis=-1)
    runs = 16.0 * replicates
    out = np.zeros((*c.shape[:-2], len(COMPONENTS)))
    for at, group in enumerate(_GROUP):
        out[..., group] += shared[..., at]
    out[..., -2] = spread.sum(axis=-1) - 15.0 * within_cell / runs
    out[..., -1] = within_cell * (1.0 - 1.0 / runs)
    return out


def _shares(parts: FloatArray) -> FloatArray:
    total = parts.sum(axis=-1, keepdims=True)
    return np.asarray(
        np.divide(parts, total, out=np.zeros_like(parts), where=total > 0.0), dtype=np.float64
    )


def _bca_ends(
    point: FloatArray, resampled: FloatArray, left_out: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    """Return BCa ends of each component from resamples [B, k] and leave-one-out values [n, k]."""
    count = len(resampled)
    below = (resampled < point).mean(axis=0) + 0.5 * (resampled == point).mean(axis=0)
    bias = stats.norm.ppf(np.clip(below, 1.0 / (count + 1), count / (count + 1)))
    pull = left_out.mean(axis=0) - left_out
    cubes, squares = (pull**3).sum(axis=0), (pull**2).sum(axis=0) ** 1.5
    skew = np.divide(cubes, 6.0 * squares, out=np.zeros_like(cubes), where=squares > 0.0)
    ends = []
    for side in ((1.0 - level) / 2.0, (1.0 + level) / 2.0):
        z = bias + stats.norm.ppf(side)
        chance = stats.norm.cdf(bias + z / np.maximum(1.0 - skew * z, 1e-3))
        ends.append(np.array([np.quantile(resampled[:, k], p) for k, p in enumerate(chance)]))
    return ends[0], ends[1]


def _readings(y: Values) -> tuple[FloatArray, FloatArray, int]:
    """Return cell means [n, 2, 2, 2, 2], within-cell variance [n] and replicates."""
    table = np.asarray(y, dtype=np.float64)
    if table.ndim == 5:
        table = table[..., None]
    if table.ndim != 6 or table.shape[1:5] != (2, 2, 2, 2) or table.shape[5] < 1:
        raise UsageError(
            f"wanted readings [n, 2, 2, 2, 2] or [n, 2, 2, 2, 2, replicates] with factors in the "
            f"order {', '.join(FACTORS)}; came {np.asarray(y).shape}"
        )
    if len(table) < MIN_UNITS:
        raise TooFewUnits(f"readings: {len(table)} units came, at least {MIN_UNITS} are needed")
    check_finite(table, "readings")
    replicates = table.shape[5]
    noise = np.zeros(len(table))
    if replicates > 1:
        noise = table.var(axis=5, ddof=1).mean(axis=(1, 2, 3, 4))
    return table.mean(axis=5), noise, replicates


def decompose(
    y: Values, level: float = 0.95, n_resamples: int = 1_999, seed: int = 0
) -> Decomposition:
    """Return which share of the within-unit variance of a reading each factor causes.

    Components: the four main effects, the six two-way interactions, all higher ones pooled,
    nuisance (what a factor does differently from unit to unit) and noise (only with replicates;
    else it is part of nuisance). Estimates are unbiased but for the common denominator; intervals
    are BCa over units. Shares near 0 have intervals that are too narrow below (a square cannot
    show a sign): read them as "at most".

    Args:
        y: readings, shape [n, 2, 2, 2, 2] (information, salience, query, position) or with a last
            axis of replicates, n >= 8, in any one unit such as tokens of the target.
        level: of the intervals, 0 < level < 1.
        n_resamples: bootstrap samples of units, >= 1.
        seed: of the resampling.

    Raises:
        UsageError: wrong shape, level or n_resamples.
        TooFewUnits: n < 8.
        NonFinite: a reading is NaN or infinite.
    """
    check_fraction(level, "level")
    if n_resamples < 1:
        raise UsageError(f"n_resamples: wanted at least 1, came {n_resamples}")
    cells, noise, replicates = _readings(y)
    everything = _coefficients(cells)
    c, n = everything[:, 1:], len(cells)
    # rounding of a sum of sixteen terms must not count as variance
    c = np.where(np.abs(c) <= 1e-14 * np.abs(cells).max(), 0.0, c)
    parts = _parts(c, noise, replicates)
    within = float(parts.sum())
    point = _shares(parts)
    rng = np.random.default_rng(seed)
    picks = rng.integers(n, size=(n_resamples, n))
    resampled = _shares(_parts(c[picks], noise[picks], replicates))
    others = np.array([np.delete(np.arange(n), at) for at in range(n)])
    left_out = _shares(_parts(c[others], noise[others], replicates))
    low, high = _bca_ends(point, resampled, left_out, level)
    method = "BCa over units" if within > 0.0 else "degenerate: nothing moves the reading"
    shares = {
        name: Estimate(
            value=float(point[at]),
            low=float(low[at]),
            high=float(high[at]),
            level=level,
            n=n,
            unit="share of the within-unit variance",
            method=method,
        )
        for at, name in enumerate(COMPONENTS)
    }
    means = c.mean(axis=0)
    return Decomposition(
        shares=shares,
        coefficients={
            " x ".join(FACTORS[f] for f in s): float(means[at]) for at, s in enumerate(_SETS[1:])
        },
        within=within,
        between=float(everything[:, 0].var(ddof=1)),
        n=n,
        varies=within > 0.0,
    )
