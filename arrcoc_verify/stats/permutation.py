"""Tests by re-randomisation: paired sign-flip, max-t, placebo rank, McNemar.

Source: Fisher 1935; Westfall & Young 1993 (max-t, step-down); Phipson & Smyth 2010.

A sign-flip test assumes that unit effects are *symmetric* about the null value. Skewed effects
break that (figures at `sign_flip`; `python -m arrcoc_verify.stats.calibration` measures them).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.flips import EXACT_UP_TO, flipped_sums, n_flips_for
from arrcoc_verify.stats.sample import (
    FloatArray,
    Values,
    check_finite,
    check_fraction,
    check_number,
    finite_units,
)

Alternative = Literal["greater", "less", "two-sided"]

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class SignFlip:
    """What a sign-flip test found.

    Attributes:
        p: p-value, in (0, 1].
        statistic: studentised mean of the shifted values (infinite when they are all equal).
        n: units.
        n_flips: sign patterns counted.
        exact: whether these were all there are.
    """

    p: float
    statistic: float
    n: int
    n_flips: int
    exact: bool


def _studentised(sums: FloatArray, squares: FloatArray, n: int) -> FloatArray:
    """Return t of the mean from sums and (flip-invariant) sums of squares; 0 where both are 0."""
    spread = np.maximum(n * squares - sums**2, 0.0)
    flat = spread <= _ROUNDING * n * squares
    t = sums * np.sqrt(max(n - 1, 1)) / np.sqrt(np.where(flat, 1.0, spread))
    unbounded = np.where(sums == 0.0, 0.0, np.copysign(np.inf, sums))
    return np.asarray(np.where(flat, unbounded, t), dtype=np.float64)


def _oriented(sums: FloatArray, alternative: Alternative) -> FloatArray:
    if alternative == "greater":
        return sums
    if alternative == "less":
        return -sums
    if alternative == "two-sided":
        return np.abs(sums)
    raise UsageError(f"alternative {alternative!r}: wanted greater, less or two-sided")


def sign_flip(
    x: Values,
    margin: float = 0.0,
    alternative: Alternative = "greater",
    alpha: float = 0.01,
    seed: int = 0,
) -> SignFlip:
    """Test the mean of paired effects against `margin` by flipping the signs of `x - margin`.

    `greater` tests H0: mean <= margin, `less` tests H0: mean >= margin. Sums of squares do not
    change under flips, so the studentised mean orders the patterns exactly as the mean does: the
    test is both at once. Exact up to 16 units; above, p = (hits + 1) / (B + 1), which is valid for
    every B. Near-ties count as hits.

    Valid where effects are symmetric about the null value. Under skew the test away from the long
    tail rejects a true null too often, towards it too seldom; measured (3,000 samples a figure):

        effects          level    n = 8    n = 16    n = 32    n = 64
        exponential       5 %     13 %      11 %      10 %      9 %
                          1 %      4 %       5 %       5 %      3 %
                         .1 %        -     1.3 %     1.0 %    1.0 %
        lognormal         5 %     20 %      18 %      16 %     12 %
                          1 %      8 %      10 %       9 %      6 %
                         .1 %        -     3.4 %     3.0 %    2.0 %

    So `decide_causes` asks bootstrap-t as well: that takes a third to four fifths of the excess
    away (at .1 %: exponential .5, .3, .2 %; lognormal 1.4, .8, .6 %) and costs little power.

    Args:
        x: one effect per unit, shape [n], n >= 1.
        margin: the null value, in the unit of the effects.
        alternative: `greater`, `less` or `two-sided`.
        alpha: the level that p will be held against, after any adjustment; sets B.
        seed: of the random patterns.

    Raises:
        NonFinite: an effect is NaN or infinite.
        TooFewUnits: no units.
        UsageError: unknown alternative, margin not finite, alpha outside (0, 1).
    """
    shifted = finite_units(x) - check_number(margin, "margin")
    n, n_flips = shifted.size, n_flips_for(shifted.size, check_fraction(alpha, "alpha"))
    total = np.array([shifted.sum()])
    seen = float(_oriented(total, alternative)[0]) - _ROUNDING * float(np.abs(shifted).sum())
    hits = sum(
        int(np.count_nonzero(_oriented(sums, alternative) >= seen))
        for sums in flipped_sums(shifted[:, None], n_flips, seed)
    )
    exact = n <= EXACT_UP_TO
    p = hits / n_flips if exact else (hits + 1.0) / (n_flips + 1.0)
    t = float(_studentised(total, np.array([np.square(shifted).sum()]), n)[0])
    return SignFlip(p=p, statistic=t, n=n, n_flips=n_flips, exact=exact)


def max_t(
    x: Values,
    margin: float | Values = 0.0,
    alternative: Alternative = "greater",
    alpha: float = 0.01,
    seed: int = 0,
    step_down: bool = True,
) -> FloatArray:
    """Return p-values of m claims on the same units, adjusted by Westfall-Young max-t.

    One sign pattern flips all claims of a unit together, so their dependence is kept, which
    rejects more than Holm when claims are correlated. Strong control of the family-wise error
    where the units' vectors of effects are jointly symmetric about the margins.

    Args:
        x: effects, shape [n, m]: one row per unit, one column per claim.
        margin: null value of each claim, a number or shape [m].
        alternative: as in `sign_flip`.
        alpha: family-wise level; sets the number of random patterns.
        seed: of the random patterns.
        step_down: False gives the single-step version, never smaller.

    Returns:
        Adjusted p in the order of the columns, shape [m].

    Raises:
        NonFinite: an effect or a margin is NaN or infinite.
        UsageError: `x` is not two-dimensional or empty, or an unknown alternative.
    """
    table = np.asarray(x, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise UsageError(f"wanted effects of shape [n units, m claims], came {table.shape}")
    shifted = table - np.asarray(margin, dtype=np.float64)
    check_finite(shifted, "effects minus margin")
    n, m = shifted.shape
    squares = np.square(shifted).sum(axis=0)
    seen = _oriented(_studentised(shifted.sum(axis=0), squares, n), alternative)
    order = np.argsort(-seen, kind="stable")
    reached = seen[order] - 1e-9 * np.where(np.isfinite(seen[order]), np.abs(seen[order]), 0.0)
    n_flips = n_flips_for(n, check_fraction(alpha, "alpha"))
    hits = np.zeros(m)
    for sums in flipped_sums(shifted[:, order], n_flips, seed):
        t = _oriented(_studentised(sums, squares[order], n), alternative)
        if step_down:
            largest = np.maximum.accumulate(t[:, ::-1], axis=1)[:, ::-1]
        else:
            largest = t.max(axis=1, keepdims=True)
        hits += np.count_nonzero(largest >= reached, axis=0)
    p = hits / n_flips if n <= EXACT_UP_TO else (hits + 1.0) / (n_flips + 1.0)
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def placebo_rank(statistic: float, placebos: Values, alternative: Alternative = "greater") -> float:
    """Return the randomisation p-value of a statistic among the same statistic on placebos.

    (1 + placebos at least as extreme) / (1 + placebos): the only test here whose randomisation is
    real, so it needs no symmetry, but it cannot go below 1 / (1 + K).

    Args:
        statistic: the reading at the feature under test.
        placebos: the same reading at K features drawn at random, shape [K], K >= 1.
        alternative: as in `sign_flip`; two-sided compares absolute values.

    Raises:
        NonFinite: a reading is NaN or infinite.
        TooFewUnits: no placebos.
    """
    null = _oriented(finite_units(placebos, "placebos"), alternative)
    seen = float(_oriented(finite_units([statistic], "statistic"), alternative)[0])
    return float((1 + np.count_nonzero(null >= seen)) / (1 + null.size))


def mcnemar_exact(only_a: int, only_b: int, alternative: Alternative = "two-sided") -> float:
    """Return the exact McNemar p-value for two systems on the same cases.

    Args:
        only_a: cases that only A got right.
        only_b: cases that only B got right.
        alternative: `greater` means that A is right more often.

    Raises:
        UsageError: a negative count.
    """
    if only_a < 0 or only_b < 0:
        raise UsageError(f"wanted counts >= 0, came {only_a} and {only_b}")
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5, alternative=alternative).pvalue)
