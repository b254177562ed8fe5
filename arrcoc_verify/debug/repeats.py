"""Does the case get the same tokens when it is run again, and beside other pictures?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.causes import Cause
from arrcoc_verify.debug.experiment import Evidence, Trial
from arrcoc_verify.debug.parts import Part, View, Where, Workshop
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Output

REPEATS = 8
"""Runs of the same case: noise that strikes every other run is seen in 255 cases of 256."""

ROUNDING = 1e-4
"""Share of the largest value by which values may differ: batches round in another order."""

MATES = 3
"""Pictures that a case is run beside."""


@dataclass(kw_only=True, eq=False)
class Runtime:
    """What came of running the case again.

    Attributes:
        cause: named when some of the runs keep the goal.
        parts: the map in which runs first differ, as it is in the best of them; empty if none.
        trial: on which the part can be tried.
        evidence: every experiment.
        undecided: what cannot be told because of it.
    """

    cause: Cause | None = None
    parts: tuple[Part, ...] = ()
    trial: Trial | None = None
    evidence: list[Evidence] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)


def of_runs(bench: Bench, goal: Goal) -> Runtime:
    """Run the case again, and beside other pictures."""
    found = Runtime()
    _again(bench, goal, found)
    if found.cause is None:
        _beside(bench, goal, found)
    return found


def _again(bench: Bench, goal: Goal, found: Runtime) -> None:
    case = bench.case
    again = [bench.run_on([case.image], [case.query]) for _ in range(REPEATS)]
    first = bench.clean.allocation.tokens
    same = all(bool((one.allocation.tokens == first).all()) for one in again)
    if not bench.model.declaration.deterministic:
        return
    runs = [bench.clean, *again]
    tokens = torch.stack([bench.tokens(one)[0] for one in runs])
    found.evidence.append(_evidence(bench, goal, tokens, "the same again", "not_deterministic"))
    if same:
        return
    if not bool(goal.met(tokens).any()):
        found.undecided.append(
            "the model is not deterministic: effects below its noise mean nothing"
        )
        return
    rows = [_row(one, 0) for one in runs]
    best = rows[int((tokens * goal.sign).argmax())]
    cause = Cause(code="not_deterministic", detail="some of its own runs keep the goal")
    _blame(bench, goal, found, cause, rows, best)


def _beside(bench: Bench, goal: Goal, found: Runtime) -> None:
    case, mates = bench.case, list(bench.donors.scenes[:MATES])
    if not mates or not bench.model.declaration.batch_invariant:
        return
    images = [case.image, *(scene.image for scene in mates)]
    queries = [case.query, *(scene.query for scene in mates)]
    orders = [list(range(len(images))), [*range(1, len(images)), 0]]
    rows, tokens = [], []
    for order in orders:
        run = bench.run_on([images[i] for i in order], [queries[i] for i in order])
        row = order.index(0)
        rows.append(_row(run, row))
        tokens.append(mean_over(run.allocation.tokens, case.cells.expand(len(order), -1))[row])
    beside = torch.stack(tokens)
    found.evidence.append(_evidence(bench, goal, beside, "beside others", "batch_dependent"))
    if not bool((beside - bench.before).abs().max() > 1.0):
        return
    if not bool(goal.met(beside).any()):
        found.undecided.append("the picture's tokens hang on its neighbours in the batch")
        return
    best = rows[int((beside * goal.sign).argmax())]
    cause = Cause(code="batch_dependent", detail="beside other pictures it gets them")
    _blame(bench, goal, found, cause, [_row(bench.clean, 0), *rows], best)


Row = Mapping[str, torch.Tensor]
"""One example's activations, by site."""


def _row(run: Run, row: int) -> Row:
    """Return one example's activations at the sites that steps return, in the order of data."""
    place = {step.name: at for at, step in enumerate(run.model.steps)}
    made = {}
    for site in sorted(run.model.sites.values(), key=lambda one: place[one.at.step]):
        if isinstance(site.at, Output) and site.at.step in run.chunks[0].outputs:
            made[site.name] = run[site.name][row : row + 1]
    return made


def _blame(
    bench: Bench, goal: Goal, found: Runtime, cause: Cause, rows: Sequence[Row], best: Row
) -> None:
    """Name the cause at the first site in which the runs differ, with the best run's map there."""
    name = _first_differing(rows)
    found.cause = replace(cause, site=name)
    if not name:
        return
    site = bench.model.site(name)
    if not site.role or not site.per_patch or not site.writable:
        return

    def edits(view: View, where: Where) -> list[Edit]:
        del where
        if view.run.images[0] is not bench.case.image:
            return []  # donors' runs are what they are
        wide = best[name].expand(len(view.run), *best[name].shape[1:]).clone()
        return [Edit(site=name, value=wide, label="the best run's map")]

    part = Part(
        name=f"runs:{site.role}", code=cause.code, role=site.role, edits=edits,
        said=f"{name} as it is in the best of its own runs",
    )  # fmt: skip
    shop = Workshop(bench=bench, goal=goal, keep=np.zeros(len(bench.donors.scenes), dtype=bool))
    found.parts, found.trial = (part,), Trial(shop, "runs")


def _first_differing(rows: Sequence[Row]) -> str:
    """Return the first site whose values differ by more than rounding, or ""."""
    for name, first in rows[0].items():
        size = float(first.double().abs().max()) if first.numel() else 0.0
        for one in rows[1:]:
            other = one[name]
            if other.shape != first.shape:
                return name
            if float((other - first).double().abs().max()) > ROUNDING * max(size, 1e-9):
                return name
    return ""


def _evidence(bench: Bench, goal: Goal, tokens: torch.Tensor, how: str, code: str) -> Evidence:
    change = tokens - bench.before
    return Evidence(
        experiment=f"run {how}, {len(tokens)} times", code=code, effect=float(change.mean()),
        interval=(float(change.min()), float(change.max())), tokens=float(tokens.mean()),
        restores="yes" if bool(goal.met(tokens).any()) else "no", basis="runs", n=len(tokens),
        part="runs",
    )  # fmt: skip
