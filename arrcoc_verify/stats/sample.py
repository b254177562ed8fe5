"""What a procedure accepts as a sample: independent units as a finite array of floats.

Source: the unit of resampling is the photograph (or the cluster of photographs that share a
cut-out), never a patch or a token, because patches of one image are not independent.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrcoc_verify.errors import NonFinite, TooFewUnits, UsageError

FloatArray = NDArray[np.float64]

Values = NDArray[Any] | Sequence[Any]
"""Numbers as a caller may hold them: an array, a list or a tuple, nested for more axes."""

MIN_UNITS = 8
"""Fewest units for which an interval or a verdict is given."""


def finite_units(x: Values, name: str = "effects", least: int = 1) -> FloatArray:
    """Return `x` as a one-dimensional float array after checking that it can be used.

    Args:
        x: one number per unit, shape [n].
        name: what to call it in an error.
        least: fewest units accepted.

    Raises:
        UsageError: `x` is not one-dimensional.
        TooFewUnits: fewer than `least` units.
        NonFinite: a value is NaN or infinite.
    """
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError(f"{name}: wanted one number per unit, shape [n]; came {array.shape}")
    if array.size < least:
        raise TooFewUnits(f"{name}: {array.size} units came, at least {least} are needed")
    check_finite(array, name)
    return array


def check_finite(x: FloatArray, name: str) -> None:
    """Raise NonFinite, naming the first positions, unless all of `x` is finite."""
    bad = np.argwhere(~np.isfinite(x))
    if bad.size:
        where = ", ".join(str(tuple(int(i) for i in at)) for at in bad[:5])
        raise NonFinite(
            f"{name}: {len(bad)} of {x.size} values are not finite, first at {where}; "
            "find the stage that made them before reading an effect"
        )


def check_fraction(value: float, name: str) -> float:
    """Return `value` if it lies strictly between 0 and 1, else raise UsageError."""
    if not 0.0 < value < 1.0:
        raise UsageError(f"{name}: wanted a number between 0 and 1, came {value}")
    return float(value)


def check_number(value: float, name: str) -> float:
    """Return `value` if it is finite, else raise UsageError."""
    if not math.isfinite(value):
        raise UsageError(f"{name}: wanted a finite number, came {value}")
    return float(value)


def same_value(x: FloatArray) -> bool:
    """Return whether all values are equal up to the rounding of one addition per value."""
    spread = float(np.ptp(x))
    return spread <= 4.0 * float(np.finfo(np.float64).eps) * float(np.max(np.abs(x), initial=0.0))


def average_clusters(values: Values, clusters: Sequence[Hashable]) -> FloatArray:
    """Return the mean of each cluster, in the order in which clusters first appear.

    Distances are squared before and rooted after, so that their root mean square is kept.

    Args:
        values: one number per unit, shape [n].
        clusters: cluster of each unit, length n.

    Raises:
        UsageError: lengths differ.
        NonFinite: a value is NaN or infinite (a mean would hide which).
    """
    array = finite_units(values, "values", least=0)
    if len(clusters) != array.size:
        raise UsageError(f"{array.size} values came with {len(clusters)} cluster labels")
    order = {label: at for at, label in enumerate(dict.fromkeys(clusters))}
    index = np.array([order[label] for label in clusters], dtype=np.intp)
    sums = np.bincount(index, weights=array, minlength=len(order))
    counts = np.bincount(index, minlength=len(order))
    return np.asarray(sums / np.maximum(counts, 1), dtype=np.float64)
