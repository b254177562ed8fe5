"""Dose-response: does the response rise with the dose within units?

Source: Kendall 1938 within blocks, which is Jonckheere's statistic per unit summed over units;
its exact null distribution with ties is a Gaussian multinomial (MacMahon 1913), so no sampling
is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.sample import FloatArray, Values, check_finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What a dose-response test found.

    Attributes:
        p: exact one-sided p-value.
        score: concordant minus discordant pairs, summed over units.
        tau: mean within-unit Kendall tau-a, -1..1.
        n: units.
    """

    p: float
    score: int
    tau: float
    n: int


def _responses(y: Values) -> FloatArray:
    table = np.asarray(y, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise UsageError(f"wanted responses of shape [n units, k >= 2 doses], came {table.shape}")
    check_finite(table, "responses")
    return table


def within_unit_scores(y: Values) -> FloatArray:
    """Return concordant minus discordant pairs of (dose, response) per unit, shape [n].

    Divided by k (k - 1) / 2 this is tau-a of each unit, a signed effect for `decide_causes`.

    Args:
        y: responses, shape [n, k], columns in the order of rising, distinct doses.

    Raises:
        UsageError: wrong shape.
        NonFinite: a response is NaN or infinite.
    """
    table = _responses(y)
    k = table.shape[1]
    first, second = np.triu_indices(k, 1)
    return np.asarray(np.sign(table[:, second] - table[:, first]).sum(axis=1), dtype=np.float64)


def _times(poly: list[int], size: int) -> list[int]:
    """Multiply by 1 + q + ... + q**(size - 1)."""
    out = [0] * (len(poly) + size - 1)
    for at, value in enumerate(poly):
        for shift in range(size):
            out[at + shift] += value
    return out


def _divided(poly: list[int], size: int) -> list[int]:
    """Divide exactly by 1 + q + ... + q**(size - 1)."""
    out: list[int] = []
    for at in range(len(poly) - size + 1):
        out.append(poly[at] - sum(out[max(0, at - size + 1) : at]))
    return out


def _score_chances(groups: Sequence[int]) -> tuple[FloatArray, int]:
    """Return chances of 0, 1, ... discordant pairs for a unit with these sizes of ties."""
    poly = [1]
    for size in range(2, sum(groups) + 1):
        poly = _times(poly, size)
    for group in groups:
        for size in range(2, group + 1):
            poly = _divided(poly, size)
    total = sum(poly)
    return np.array([value / total for value in poly]), len(poly) - 1


def dose_response(
    y: Values, alternative: Literal["increasing", "decreasing"] = "increasing"
) -> Trend:
    """Test exactly whether the response rises (or falls) with the dose within units.

    Under H0 every order of a unit's responses is equally likely, independently between units.
    Ties within a unit are handled exactly. Between-unit differences cannot matter.

    Args:
        y: responses, shape [n, k], columns in the order of rising, distinct doses.
        alternative: direction to be shown.

    Raises:
        UsageError: wrong shape or unknown alternative.
        NonFinite: a response is NaN or infinite.
    """
    table = _responses(y)
    if alternative not in ("increasing", "decreasing"):
        raise UsageError(f"alternative {alternative!r}: wanted increasing or decreasing")
    n, k = table.shape
    score = int(within_unit_scores(table).sum())
    chances, pairs = np.ones(1), 0
    known: dict[tuple[int, ...], tuple[FloatArray, int]] = {}
    for row in table:
        groups = tuple(sorted(int(c) for c in np.unique(row, return_counts=True)[1]))
        if groups not in known:
            known[groups] = _score_chances(groups)
        chances = np.convolve(chances, known[groups][0])
        pairs += known[groups][1]
    # score = pairs - 2 * discordant, and the null is symmetric, so both directions share a tail
    rising = score if alternative == "increasing" else -score
    most_discordant = (pairs - rising) // 2
    p = min(1.0, math.fsum(chances[: most_discordant + 1]))
    return Trend(p=p, score=score, tau=score / (n * math.comb(k, 2)), n=n)
