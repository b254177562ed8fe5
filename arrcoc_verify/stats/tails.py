"""One-sided p-values of a sample's mean against any bound, by Student's t or by bootstrap-t.

Source: Student 1908; Efron & Tibshirani 1993, ch. 12 and 16 (bootstrap-t, inverted).
"""

import math
from typing import Literal

import numpy as np
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.flips import smallest_p
from arrcoc_verify.stats.interval import bootstrap_t_values
from arrcoc_verify.stats.sample import FloatArray, check_fraction, same_value

_HITS_AT_ALPHA = 100
_FEWEST = 9_999
_MOST = 99_999


def n_tail_resamples(alpha: float) -> int:
    """Return how many resamples put about 100 beyond the level: at least 9,999, below 100,000."""
    return min(_MOST, max(_FEWEST, math.ceil(_HITS_AT_ALPHA / check_fraction(alpha, "alpha")) - 1))


class MeanTails:
    """Both tails of one sample's mean, so that several bounds share one bootstrap.

    Equal values have no spread to test with: p is then the least that n units allow (2**-n up to
    16 units), never 0.

    Args:
        x: finite values, shape [n], n >= 2.
        method: `t` or `bootstrap-t`.
        alpha: level that p will be held against; sets the resamples.
        seed: of the resampling.

    Raises:
        UsageError: unknown method or alpha outside (0, 1).
    """

    __slots__ = ("_error", "_mean", "_method", "_n", "_null")

    def __init__(
        self, x: FloatArray, method: Literal["t", "bootstrap-t"], alpha: float, seed: int
    ) -> None:
        if method not in ("t", "bootstrap-t"):
            raise UsageError(f"method {method!r}: wanted t or bootstrap-t")
        resamples = n_tail_resamples(alpha)
        self._n, self._mean, self._method = x.size, float(x.mean()), method
        self._error = 0.0 if same_value(x) else float(stats.sem(x))
        self._null = np.empty(0)
        if method == "bootstrap-t" and self._error > 0.0:
            self._null = bootstrap_t_values(x, resamples, seed)

    def p_below(self, bound: float) -> float:
        """Return p of H0: mean >= bound."""
        distance = self._mean - bound
        if self._error == 0.0:
            return smallest_p(self._n) if distance < 0.0 else 1.0
        t = distance / self._error
        if self._method == "t":
            return float(stats.t.cdf(t, self._n - 1))
        hits = int(np.searchsorted(self._null, t, side="right"))
        return (hits + 1) / (self._null.size + 1)

    def p_above(self, bound: float) -> float:
        """Return p of H0: mean <= bound."""
        distance = self._mean - bound
        if self._error == 0.0:
            return smallest_p(self._n) if distance > 0.0 else 1.0
        t = distance / self._error
        if self._method == "t":
            return float(stats.t.sf(t, self._n - 1))
        hits = self._null.size - int(np.searchsorted(self._null, t, side="left"))
        return (hits + 1) / (self._null.size + 1)
