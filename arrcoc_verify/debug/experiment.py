"""Experiments on a case: what was put right, what the region then got, does that mend it?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.parts import Part, View, Where, Workshop
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.metric import mean_over
from arrcoc_verify.stats.interval import mean_interval
from arrcoc_verify.stats.sample import MIN_UNITS, average_clusters

LEVEL = 0.9
"""Level of the intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One experiment.

    Attributes:
        experiment: what was done, in plain words.
        part: which part it puts right, or "".
        code: the cause that it speaks for.
        effect: change of the region's mean tokens per patch.
        interval: its interval, over resamples of donors, wordings or repeats; see `basis`.
        tokens: what the region got with it.
        restores: `yes`, `no` or `undecided`.
        basis: `donors`, `contract`, `query`, `picture`, ...: what the reference is, and what the
            interval is over.
        placebo: (low, high) of the same intervention where allocation is right, or None.
        replication: (low, high) of its mean effect on all donors' own regions, or None.
        n: resamples, wordings or clusters behind the interval.
        strength: how bold the change is.
        role: role of the site that was written, or "".
    """

    experiment: str
    code: str
    effect: float
    interval: tuple[float, float]
    tokens: float
    restores: str
    basis: str
    part: str = ""
    placebo: tuple[float, float] | None = None
    replication: tuple[float, float] | None = None
    n: int = 1
    strength: int = 1
    role: str = ""


def judged(goal: Goal, tokens: Tensor) -> str:
    """Return whether a restoration mends the case: in 19 of 20 resamples, in 1 of 20, between."""
    share = float(goal.met(tokens).double().mean())
    return "yes" if share >= 0.95 else "no" if share <= 0.05 else "undecided"


class Trial:
    """Tries parts of one workshop on the case and on the donors."""

    def __init__(self, shop: Workshop, basis: str) -> None:
        """Take the workshop; `basis` is what its parts are put right by."""
        self.shop, self.basis = shop, basis
        self.bench: Bench = shop.bench
        self.views: dict[tuple[str, ...], View] = {}

    def view(self, parts: Sequence[Part], where: Where = "whole") -> View:
        """Return the case with parts put right one after the other, in the given order."""
        key = (*(part.name for part in parts), where)
        if key not in self.views:
            start = self.view(parts[:-1]) if parts else self.shop.case_view()
            self.views[key] = parts[-1].restored(self.bench, start, where) if parts else start
        return self.views[key]

    def evidence(self, parts: Sequence[Part], where: Where = "whole") -> Evidence:
        """Return what comes of putting these parts right, and no other."""
        tokens = self.bench.tokens(self.view(parts, where).run)
        change = (tokens - self.bench.before).numpy()
        placebo, over = self._on_donors(parts, where) if len(parts) == 1 else (None, None)
        ends = (float(np.quantile(change, 0.05)), float(np.quantile(change, 0.95)))
        words = {"whole": "", "region": ", in the region only", "rest": ", outside the region only"}
        return Evidence(
            experiment=" and ".join(part.said for part in parts) + words[where],
            part="+".join(part.name for part in parts),
            code="+".join(dict.fromkeys(part.code for part in parts)),
            effect=float(change.mean()), interval=ends, tokens=float(tokens.mean()),
            restores=judged(self.shop.goal, tokens), basis=self.basis, placebo=placebo,
            replication=over, n=len(tokens) if self.basis == "donors" else 1,
            strength=max(part.strength for part in parts),
            role="+".join(part.role for part in parts if part.role),
        )  # fmt: skip

    def _on_donors(
        self, parts: Sequence[Part], where: Where
    ) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """Return the interval over right donors (a placebo) and over all donors (a replication)."""
        donors = self.bench.donors
        if not donors.scenes:
            return None, None
        (part,) = parts
        after = part.restored(self.bench, self.shop.donor_view(), where).run
        change = (mean_over(after.allocation.tokens, donors.cells) - donors.tokens).numpy()
        names = donors.clusters
        every = _over_clusters(change, names, self.bench.seed)
        right = self.bench.right(self.shop.goal)
        kept = [name for name, good in zip(names, right, strict=True) if good]
        return _over_clusters(change[right], kept, self.bench.seed), every


def _over_clusters(
    change: np.ndarray[Any, Any], clusters: Sequence[str], seed: int
) -> tuple[float, float] | None:
    means = average_clusters(change, clusters) if len(change) else np.empty(0)
    if len(means) < MIN_UNITS:
        return None
    found = mean_interval(means, LEVEL, seed, method="t")
    return found.low, found.high


def attempted(missing: list[str], name: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns; what the model refuses is noted and gives None."""
    try:
        return make()
    except ArrcocError as error:
        missing.append(f"{name}: {error}")
        return None
