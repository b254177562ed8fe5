"""Runs that stop early: betting e-processes and confidence sequences for bounded effects.

Source: Waudby-Smith & Ramdas 2024 (Estimating means of bounded random variables by betting);
Ville 1939. A mixture of fixed bets is a non-negative martingale under the null, so the evidence
may be looked at after every unit and the run stopped whenever it suffices.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.sample import (
    FloatArray,
    Values,
    check_fraction,
    check_number,
    finite_units,
)

_BETS = (np.arange(20) + 0.5) / 20.0
_GRID = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSequence:
    """Intervals that are all right at once with the probability `level`.

    Attributes:
        low: lower ends after 1, 2, ... units, never falling, shape [n].
        high: upper ends, never rising, shape [n].
        level: confidence level of the whole sequence.
    """

    low: FloatArray
    high: FloatArray
    level: float


def _bounded(x: Values, bounds: tuple[float, float]) -> FloatArray:
    values = finite_units(x)
    low, high = (check_number(bound, "bound") for bound in bounds)
    if not low < high:
        raise UsageError(f"bounds: wanted low < high, came {low} and {high}")
    if not bool(((values >= low) & (values <= high)).all()):
        raise UsageError(
            f"effects lie in {values.min()}..{values.max()}, outside the bounds {low}..{high} "
            "that the bets rely on; scale them by their largest possible value"
        )
    return values


def _log_capital(gains: FloatArray, worst: float) -> FloatArray:
    """Return the log of the mixture's capital after each unit, over the last axis.

    A bet is a fraction of the largest stake that cannot go below zero when a gain is at least
    `-worst`.
    """
    if worst <= 0.0:
        return np.zeros_like(gains)
    growth = np.cumsum(np.log1p(_BETS[:, None] / worst * gains[..., None, :]), axis=-1)
    peak = growth.max(axis=-2, keepdims=True)
    mixed = np.log(np.exp(growth - peak).mean(axis=-2))
    return np.asarray(mixed + peak[..., 0, :], dtype=np.float64)


def e_process(
    x: Values,
    margin: float = 0.0,
    alternative: Literal["greater", "less"] = "greater",
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> FloatArray:
    """Return the evidence against "mean <= margin" (or >=) after 1, 2, ... units.

    An e-value of 1 / alpha or more at any time rejects at level alpha. Only the mean and the
    bounds matter: no symmetry, no distribution. e-values of independent runs multiply.

    Args:
        x: effects in the order in which they were measured, shape [n].
        margin: null value, strictly inside the bounds.
        alternative: `greater` or `less`.
        bounds: every effect that could occur lies in them.

    Returns:
        e-values, shape [n], each >= 0.

    Raises:
        NonFinite: an effect is NaN or infinite.
        UsageError: an effect outside the bounds, or a margin not inside them.
    """
    values = _bounded(x, bounds)
    low, high = bounds
    if not low < margin < high:
        raise UsageError(f"margin: wanted a number inside {bounds}, came {margin}")
    if alternative not in ("greater", "less"):
        raise UsageError(f"alternative {alternative!r}: wanted greater or less")
    rising = alternative == "greater"
    gains = values - margin if rising else margin - values
    worst = margin - low if rising else high - margin
    with np.errstate(over="ignore"):  # beyond 1e308 the evidence is infinite, which is a value here
        return np.asarray(np.exp(_log_capital(gains, worst)), dtype=np.float64)


def n_to_decide(
    x: Values,
    margin: float = 0.0,
    alpha: float = 0.01,
    alternative: Literal["greater", "less"] = "greater",
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> int | None:
    """Return after how many units the e-process first reached 1 / alpha, or None if it did not.

    Raises:
        As `e_process`; UsageError when alpha is outside (0, 1).
    """
    enough = e_process(x, margin, alternative, bounds) >= 1.0 / check_fraction(alpha, "alpha")
    return int(np.argmax(enough)) + 1 if bool(enough.any()) else None


def confidence_sequence(
    x: Values, level: float = 0.95, bounds: tuple[float, float] = (-1.0, 1.0)
) -> ConfidenceSequence:
    """Return intervals of the mean that may be looked at after every unit.

    Each end inverts a one-sided e-process at half of 1 - level on a grid of 401 means, widened by
    one step outwards, so the grid costs width and never coverage.

    Args:
        x: effects in the order in which they were measured, shape [n].
        level: probability that no interval misses the mean, ever.
        bounds: every effect that could occur lies in them.

    Raises:
        NonFinite: an effect is NaN or infinite.
        UsageError: an effect outside the bounds, or level outside (0, 1).
    """
    values = _bounded(x, bounds)
    low, high = bounds
    means = np.linspace(low, high, _GRID)
    needed = math.log(2.0 / (1.0 - check_fraction(level, "level")))
    lows, highs = np.empty((_GRID, values.size)), np.empty((_GRID, values.size))
    for at, mean in enumerate(means):
        lows[at] = _log_capital(values - mean, mean - low)
        highs[at] = _log_capital(mean - values, high - mean)
    # a mean once excluded stays excluded: the running maximum of the evidence
    below = np.maximum.accumulate(lows, axis=1) >= needed
    above = np.maximum.accumulate(highs, axis=1) >= needed
    step = float(means[1] - means[0])
    ends_low = low + step * np.maximum(np.cumprod(below[1:], axis=0).sum(axis=0), 0)
    ends_high = high - step * np.maximum(np.cumprod(above[-2::-1], axis=0).sum(axis=0), 0)
    return ConfidenceSequence(low=ends_low, high=ends_high, level=level)
