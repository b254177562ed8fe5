"""Is it a failure? What the region gets, against what the model gives such regions elsewhere.

Without a stated expectation the region is compared with the donors' regions by rank, one reading a
cluster: under exchangeability its rank is uniform (conformal prediction, Vovk et al. 2005), so the
error rates below are exact. With one, the expectation decides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import FACE, Goal, most_for
from arrcoc_verify.stats.sample import average_clusters

ALPHA = 0.1
"""Chance that a region like all others is called a failure."""

CLEAR = 0.25
"""A region that at least so large a share of donors fall behind of is no failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Whether the region got too little, or too much.

    Attributes:
        answer: `yes`, `no` or `undecided`.
        reason: in plain words.
        goal: what it should have got.
        tokens: what it got.
        elsewhere: (lowest, median, highest) of the donors' clusters, or None without donors.
        p_value: chance of so small a rank among donors; None when an expectation was given.
        n: independent donors.
    """

    answer: str
    reason: str
    goal: Goal
    tokens: float
    elsewhere: tuple[float, float, float] | None
    p_value: float | None = None
    n: int = 0


def is_failure(bench: Bench, expected: Goal | None) -> Failure:
    """Return whether the case is a failure, and what it takes to mend it."""
    donors = bench.donors
    readings = average_clusters(donors.tokens.numpy(), donors.clusters) if donors.scenes else None
    got = bench.before
    beside = None if readings is None else _ends(readings)
    count = 0 if readings is None else len(readings)
    if expected is not None:
        met = bool(expected.met(bench.tokens(bench.clean))[0])
        reason = f"it gets {got:.4g} tokens per patch, wanted {expected}"
        return Failure(
            answer="no" if met else "yes", reason=reason, goal=expected, tokens=got,
            elsewhere=beside, n=count,
        )  # fmt: skip
    if readings is None or beside is None or count < 8:
        return Failure(
            answer="undecided",
            reason=f"{count} independent donors to compare with, 8 are needed: "
            "say what it should get by --expect '>=N'",
            goal=Goal(tokens=got, given=False), tokens=got, elsewhere=beside, n=count,
        )  # fmt: skip
    behind = int((readings <= got).sum())
    p_value = (1 + behind) / (1 + count)
    goal = Goal(tokens=float(np.quantile(readings, CLEAR)), given=False)
    words = (
        f"it gets {got:.4g} tokens per patch; {behind} of {count} queried regions elsewhere get "
        f"no more (they get {beside[0]:.4g} to {beside[2]:.4g}, half of them over {beside[1]:.4g})"
    )
    answer = "yes" if p_value <= ALPHA else "no" if got >= goal.tokens else "undecided"
    most = most_for(bench.model, bench.case)
    if answer != "no" and most is not None and goal.tokens > most:
        answer = "undecided"
        words += (
            f"; but a region of {int(bench.case.cells.sum())} patches can get no more than "
            f"{most:.4g}: say what it should get by --expect"
        )
    return Failure(
        answer=answer, reason=words, goal=goal, tokens=got, elsewhere=beside, p_value=p_value,
        n=count,
    )  # fmt: skip


def _ends(readings: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(readings.min()), float(np.median(readings)), float(readings.max())


def faces_behind(bench: Bench) -> int:
    """Return how many distinct faces the answer rests on: the case's, and those among donors."""
    own = int(bench.case.label.lower() in FACE)
    scenes = bench.donors.scenes
    return own + len({s.cluster for s in scenes if s.target.label.lower() in FACE})


def rests_on(bench: Bench) -> str:
    """Return in words what the answer rests on."""
    faces, clusters = faces_behind(bench), len(set(bench.donors.clusters))
    own = int(bench.case.label.lower() in FACE)
    others = clusters - (faces - own)
    said = []
    if own or faces:
        said.append(f"{faces} distinct face{'s' if faces != 1 else ''}")
    if others:
        objects = f"queried object{'s' if others != 1 else ''}"
        what = f"other {objects}" if said else f"independent {objects} elsewhere"
        said.append(f"{others} {what}")
    return " and ".join(said) if said else "this region alone"
