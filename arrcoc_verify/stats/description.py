"""Small readings of one allocation or map: ranks, concentration, clustering, place.

Source: Gini 1912; Moran 1950; Spearman 1904; ridge after Hoerl & Kennard 1970. Undefined readings
(a constant map has no rank correlation) are NaN, which no claim lets pass.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.sample import FloatArray, Values, check_finite, finite_units


def tie_fair_ranks(x: Values) -> FloatArray:
    """Return ranks from the largest (1) to the smallest (n); equal values share their mean rank.

    Args:
        x: values, shape [n].

    Raises:
        NonFinite: a value is NaN or infinite.
    """
    values = finite_units(x, "values", least=0)
    return np.asarray(stats.rankdata(-values, method="average"), dtype=np.float64)


def top_fraction(x: Values, inside: Values, k: int = 1) -> float:
    """Return the expected fraction of the k largest values that lie inside, ties at random.

    With k = 1 this is the chance that the most-token patch lies in the region: ties count
    fractionally.

    Args:
        x: values, shape [n].
        inside: booleans, shape [n].
        k: how many of the largest, 1..n.

    Raises:
        NonFinite: a value is NaN or infinite.
        UsageError: shapes differ or k is out of range.
    """
    values, mask = finite_units(x, "values"), np.asarray(inside, dtype=np.bool_)
    if mask.shape != values.shape or not 1 <= k <= values.size:
        raise UsageError(
            f"wanted a mask of shape {values.shape} and 1 <= k <= {values.size}; "
            f"came {mask.shape} and {k}"
        )
    cut = np.sort(values)[-k]
    above, tied = values > cut, values == cut
    room = (k - int(above.sum())) / int(tied.sum())
    return float((above & mask).sum() + room * (tied & mask).sum()) / k


def gini(x: Values) -> float:
    """Return the Gini index of non-negative amounts: 0 all equal, (n - 1) / n one has all.

    NaN when all are 0.

    Args:
        x: amounts, shape [n], each >= 0.

    Raises:
        NonFinite: an amount is NaN or infinite.
        UsageError: a negative amount.
    """
    values = np.sort(finite_units(x, "amounts"))
    if values[0] < 0.0:
        raise UsageError(f"amounts: wanted values >= 0, least is {values[0]}")
    n, total = values.size, float(values.sum())
    if total == 0.0:
        return math.nan
    weights = 2.0 * np.arange(1, n + 1) - n - 1.0
    return float(weights @ (values / total)) / n


def morans_i(grid: Values) -> float:
    """Return Moran's I of a map with rook neighbours: 1 clustered, near 0 scattered, -1 chequered.

    Under random placement its mean is -1 / (height * width - 1). NaN for a constant map.

    Args:
        grid: values, shape [height, width], at least two cells.

    Raises:
        NonFinite: a value is NaN or infinite.
        UsageError: not a map of two or more cells.
    """
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 2 or values.size < 2:
        raise UsageError(f"wanted a map [height, width] of two or more cells, came {values.shape}")
    check_finite(values, "map")
    if np.ptp(values) == 0.0:
        return math.nan
    z = values - values.mean()
    z /= np.abs(z).max()  # squares of tiny deviations would underflow
    products = (z[1:] * z[:-1]).sum() + (z[:, 1:] * z[:, :-1]).sum()
    links = z[1:].size + z[:, 1:].size
    return float(z.size / links * products / np.square(z).sum())


def spearman(x: Values, y: Values) -> float:
    """Return Spearman's rank correlation, ties by mean ranks; NaN when either is constant.

    Args:
        x: values, shape [n], n >= 2.
        y: values, shape [n].

    Raises:
        NonFinite: a value is NaN or infinite.
        UsageError: lengths differ.
    """
    first, second = finite_units(x, "x", least=2), finite_units(y, "y", least=2)
    if first.size != second.size:
        raise UsageError(f"lengths differ: {first.size} and {second.size}")
    a, b = (ranks - ranks.mean() for ranks in (tie_fair_ranks(first), tie_fair_ranks(second)))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / scale)) if scale > 0.0 else math.nan


def _place(height: int, width: int) -> FloatArray:
    """Return centred features of place per cell: row, column, squares, product, eccentricity."""
    rows, columns = np.meshgrid(
        (np.arange(height) + 0.5) * 2.0 / height - 1.0,
        (np.arange(width) + 0.5) * 2.0 / width - 1.0,
        indexing="ij",
    )
    r, c = rows.ravel(), columns.ravel()
    features = np.stack([r, c, r**2, c**2, r * c, np.hypot(r, c)], axis=1)
    return np.asarray(features - features.mean(axis=0), dtype=np.float64)


def position_r2(maps: Sequence[Values] | FloatArray, ridge: float = 1e-3) -> float:
    """Return how much of a map's pattern its place alone predicts, cross-validated by unit.

    Each unit's map, less its mean, is predicted from row, column, their squares and product and
    the eccentricity by a ridge regression on all *other* units. 1 means that the maps are one
    function of place, 0 that place tells nothing, below 0 that it misleads. NaN when no map
    varies.

    Args:
        maps: one map per unit, each [height, width] (sizes may differ), two units or more.
        ridge: penalty, relative to the mean square of the features; >= 0.

    Raises:
        NonFinite: a value is NaN or infinite.
        UsageError: fewer than two units, wrong shapes or a negative penalty.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in maps]
    if len(tables) < 2 or any(table.ndim != 2 or table.size < 1 for table in tables):
        raise UsageError("wanted two or more maps [height, width]")
    if not ridge >= 0.0:
        raise UsageError(f"ridge: wanted a penalty >= 0, came {ridge}")
    for at, table in enumerate(tables):
        check_finite(table, f"map {at}")
    places = [_place(*table.shape) for table in tables]
    targets = [(table - table.mean()).ravel() for table in tables]
    grams = np.array([place.T @ place for place in places])
    crosses = np.array([place.T @ y for place, y in zip(places, targets, strict=True)])
    missed = seen = 0.0
    for at, (place, y) in enumerate(zip(places, targets, strict=True)):
        gram = grams.sum(axis=0) - grams[at]
        penalty = ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        weights = np.linalg.lstsq(gram + penalty, crosses.sum(axis=0) - crosses[at], rcond=None)[0]
        missed += float(np.square(y - place @ weights).sum())
        seen += float(np.square(y).sum())
    return 1.0 - missed / seen if seen > 0.0 else math.nan
