"""The reference distribution of sign-flip tests: sums of units under all, or many, sign patterns.

Source: Fisher 1935 (The Design of Experiments, sec. 21); Monte Carlo p-values (hits + 1) / (B + 1)
after Phipson & Smyth 2010. Eight units at a time are looked up in a table of their 256 signed
sums, which is several times faster than multiplying by a matrix of signs.
"""

import math
from collections.abc import Iterator

import numpy as np

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.sample import FloatArray

EXACT_UP_TO = 16
"""Units up to which all 2**n sign patterns are counted (65,536 at 16)."""

MOST_FLIPS = 1_000_000
"""Most random sign patterns of one test; the least p above 16 units is 1 / 1,000,001."""

_FEWEST_FLIPS = 9_999
_HITS_AT_ALPHA = 200
_BLOCK = 8
_CELLS = 1 << 19


def n_flips_for(n: int, alpha: float) -> int:
    """Return how many sign patterns a test of `n` units at level `alpha` uses.

    All 2**n up to 16 units; above, as many random ones as put about 200 beyond the critical value
    (a relative Monte Carlo error of 7 % of p near alpha), at least 9,999, at most a million.
    """
    if n <= EXACT_UP_TO:
        return int(2**n)
    return min(MOST_FLIPS, max(_FEWEST_FLIPS, math.ceil(_HITS_AT_ALPHA / alpha) - 1))


def smallest_p(n: int, n_flips: int | None = None) -> float:
    """Return the least one-sided p that a sign-flip test of `n` units can give.

    2**-n when all patterns are counted (n <= 16); else never below 1 / (n_flips + 1).

    Args:
        n: units, n >= 0; with none the least p is 1.
        n_flips: random patterns, used above 16 units; None means the most ever drawn.

    Raises:
        UsageError: n < 0 or n_flips < 1.
    """
    flips = MOST_FLIPS if n_flips is None else n_flips
    if n < 0 or flips < 1:
        raise UsageError(f"wanted n >= 0 units and n_flips >= 1; came {n} and {flips}")
    return float(2.0**-n) if n <= EXACT_UP_TO else 1.0 / (flips + 1.0)


def _all_sums(rows: FloatArray) -> FloatArray:
    sums = np.zeros((1, rows.shape[1]))
    for row in rows:
        sums = np.concatenate([sums + row, sums - row])
    return sums


def flipped_sums(y: FloatArray, n_flips: int, seed: int) -> Iterator[FloatArray]:
    """Yield sums over units of `y` under sign patterns, in chunks of shape [some, m].

    One pattern is common to all m columns. Up to 16 units all 2**n patterns come once each, the
    unflipped one among them; above, `n_flips` random ones without the unflipped one.

    Args:
        y: finite values, shape [n, m].
        n_flips: random patterns, used above 16 units.
        seed: of the random patterns.
    """
    n, m = y.shape
    if n <= EXACT_UP_TO:
        yield _all_sums(y)
        return
    padded = np.concatenate([y, np.zeros((-n % _BLOCK, m))])
    tables = [_all_sums(rows) for rows in np.split(padded, len(padded) // _BLOCK)]
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // m)
    for start in range(0, n_flips, step):
        count = min(step, n_flips - start)
        picks = rng.integers(256, size=(len(tables), count), dtype=np.uint8)
        sums = tables[0][picks[0]]
        for table, pick in zip(tables[1:], picks[1:], strict=True):
            sums += table[pick]
        yield sums
