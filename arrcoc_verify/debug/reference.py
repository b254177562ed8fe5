"""What a part would return if it worked as it does where allocation is right: fits on donors.

Each reference maps a part's actual inputs to its output, so that to write it in is to put that part
right and no other. All fits are made once for each resample of the donors; number 0 is the sample
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """A linear fit on standardised columns.

    Attributes:
        centre: mean of each column.
        scale: spread of each column, 1 where it has none.
        weight: coefficient of each standardised column.
        level: mean of the output.
        ends: least and greatest output that was fitted.
    """

    centre: Floats
    scale: Floats
    weight: Floats
    level: float
    ends: tuple[float, float]

    @classmethod
    def fit(cls, inputs: Floats, outputs: Floats) -> "Ridge":
        """Fit `[row, column]` to `[row]`."""
        centre, scale = inputs.mean(0), inputs.std(0)
        scale = np.where(scale > 1e-12, scale, 1.0)
        z = (inputs - centre) / scale
        level = float(outputs.mean())
        gram = z.T @ z + _RIDGE * len(z) * np.eye(z.shape[1])
        weight = np.linalg.solve(gram, z.T @ (outputs - level))
        ends = (float(outputs.min()), float(outputs.max()))
        return cls(centre=centre, scale=scale, weight=weight, level=level, ends=ends)

    def __call__(self, inputs: Floats) -> Floats:
        """Return the prediction for `[..., column]`, inside what was fitted."""
        raw = (inputs - self.centre) / self.scale @ self.weight + self.level
        return np.asarray(np.clip(raw, *self.ends))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rising:
    """A monotone fit of one number on another; flat beyond what was fitted."""

    x: Floats
    y: Floats

    @classmethod
    def fit(cls, inputs: Floats, outputs: Floats) -> "Rising":
        """Fit `[row]` to `[row]` by isotonic regression."""
        order = np.argsort(inputs, kind="stable")
        x, fitted = inputs[order], isotonic_regression(outputs[order]).x
        keep = np.r_[True, np.diff(x) > 0]
        return cls(x=x[keep], y=np.asarray(fitted)[keep])

    def __call__(self, inputs: Floats) -> Floats:
        """Return the prediction, linear between what was fitted."""
        return np.asarray(np.interp(inputs, self.x, self.y))


def resamples(clusters: Sequence[str], keep: NDArray[Any], count: int, seed: int) -> list[Any]:
    """Return `count` lists of donor numbers: the kept ones, then bootstraps of their clusters.

    Args:
        clusters: of each donor.
        keep: which donors are used, `[donor]`.
        count: how many lists.
        seed: of the draws.
    """
    used = [int(i) for i in np.flatnonzero(keep)]
    names = list(dict.fromkeys(clusters[i] for i in used))
    members = {name: [i for i in used if clusters[i] == name] for name in names}
    rng = np.random.default_rng(seed)
    lists = [np.array(used)]
    for _ in range(count - 1):
        drawn = rng.integers(len(names), size=len(names))
        lists.append(np.array([i for at in drawn for i in members[names[at]]]))
    return lists


def matched(values: Floats, wanted: Floats) -> Floats:
    """Return values with the distribution of `wanted` in the order of `values`.

    The k-th of n becomes the (k + 1/2) / n quantile; equal values are told apart by their place.
    """
    order = np.argsort(values, kind="stable")
    made = np.empty_like(values)
    made[order] = np.quantile(wanted, (np.arange(len(values)) + 0.5) / len(values))
    return made
