"""The smallest edits that mend a case: tried on it, on similar cases kept apart, and on claims.

Candidates come from what the diagnosis put right: values as they are and as they should be, in the
case and in the donors, give the gain, bias, curve or rank-one edit that turns the one into the
other. They are chosen on donors and training scenes; the winner is confirmed once, by the suite on
photographs that chose nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from arrcoc_verify.debug.bench import Donors, inner_sites, make_donors
from arrcoc_verify.debug.candidates import propose
from arrcoc_verify.debug.carried import carried
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.diagnosis import Diagnosis
from arrcoc_verify.debug.likeness import around_scores
from arrcoc_verify.debug.patching import PatchEdit, applied
from arrcoc_verify.debug.repeats import MATES, REPEATS
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.graph import run
from arrcoc_verify.lab import scene_size
from arrcoc_verify.model import Model
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.verdict import STAGES

SIMILAR_ROLE = "train"
CONFIRM_ROLE = "repair-confirm"

MARGIN = 0.1
"""Share of the tokens that may move in pictures whose own region already gets what it should."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """One candidate, and what it did.

    Attributes:
        edits: the candidate; several where several causes were named.
        case_tokens_before: mean tokens per patch of the case's region.
        case_tokens_after: the same with the edits.
        mends: the goal is met.
        similar: (failing before, of these mended, of all) among scenes kept apart.
        collateral: mean change of allocation elsewhere, half its L1 norm, as a share of the tokens.
        flipped_verdicts: claims whose verdict got worse; None when not run.
        gained_verdicts: claims whose verdict got better; None when not run.
        screened: on which claims, in words.
        keeps_total: the sum of tokens stays what the model declares, where it declares one.
        where_right: `collateral` of the pictures whose own region got what it should before; None
            where there is no such picture.
        around: it leads around the scores: what lies before them decides what is written behind.
    """

    edits: tuple[PatchEdit, ...]
    case_tokens_before: float
    case_tokens_after: float
    mends: bool
    similar: tuple[int, int, int] = (0, 0, 0)
    collateral: float = 0.0
    flipped_verdicts: tuple[str, ...] | None = None
    gained_verdicts: tuple[str, ...] | None = None
    screened: str = ""
    keeps_total: bool = True
    where_right: float | None = None
    around: bool = False

    @property
    def within(self) -> bool:
        """Whether allocation where it was right moves no more than `MARGIN`."""
        return self.where_right is None or self.where_right <= MARGIN

    @property
    def numbers(self) -> int:
        """How many numbers the candidate has."""
        return sum(edit.numbers for edit in self.edits)

    def to_json(self) -> dict[str, Any]:
        """Return a row of `repair --json`."""
        flipped = None if self.flipped_verdicts is None else list(self.flipped_verdicts)
        gained = None if self.gained_verdicts is None else list(self.gained_verdicts)
        return {
            "target": "+".join(edit.target for edit in self.edits),
            "kind": "+".join(edit.kind for edit in self.edits),
            "said": " and ".join(edit.said for edit in self.edits),
            "numbers": self.numbers,
            "case_tokens_before": self.case_tokens_before,
            "case_tokens_after": self.case_tokens_after,
            "mends": self.mends,
            "similar_failing": self.similar[0],
            "similar_mended": self.similar[1],
            "similar": self.similar[2],
            "flipped_verdicts": flipped,
            "gained_verdicts": gained,
            "collateral": self.collateral,
            "collateral_where_right": self.where_right,
            "within_margin": self.within,
            "keeps_total": self.keeps_total,
            "screened": self.screened,
        }


@dataclass(kw_only=True, eq=False)
class Repair:
    """What was tried, and what came out.

    Attributes:
        diagnosis: what it rests on.
        tried: every candidate, best first.
        winner: the one that mends the case and harms least; None when none mends it.
        confirmed: what the whole suite said of the winner, in words; "" when not run.
    """

    diagnosis: Diagnosis
    tried: list[Tried] = field(default_factory=list)
    winner: Tried | None = None
    confirmed: str = ""

    def to_json(self, command: str = "") -> list[dict[str, Any]]:
        """Return what `repair --json` writes: a row for each edit that was tried, winner first."""
        found = self.diagnosis
        about = {
            "model": found.model, "image": found.case.name, "query": found.case.query,
            "cause": found.causes[0].code if found.causes else None, "stage": found.stage,
            "expected": str(found.failure.goal), "command": command,
        }  # fmt: skip
        won = self.winner
        rest = [one for one in self.tried if won is None or one.edits is not won.edits]
        return [
            {**one.to_json(), "winner": one is won, "confirmed": self.confirmed * (one is won),
             **about}
            for one in ([won] if won is not None else []) + rest
        ]  # fmt: skip


Screen = Callable[[Model, Model, Sequence[str]], tuple[tuple[str, ...], tuple[str, ...]]]
"""Sound or broken model, repaired model, claim patterns -> (verdicts that got worse, better)."""


def similar_donors(
    model: Model, role: str = SIMILAR_ROLE, seed: int = 0, *, boxed: bool = False
) -> Donors:
    """Return scenes of a role that nothing of the diagnosis was fitted on."""
    made = scenes(
        role, grid=model.declaration.grid, size=scene_size(model), per_cluster=2, seed=seed
    )
    return make_donors(model, made, boxed=boxed)


def tried(found: Diagnosis, edits: tuple[PatchEdit, ...], apart: Donors) -> Tried | None:
    """Return what a candidate does to the case and to scenes kept apart; None if it cannot run."""
    bench, goal = found.bench, found.failure.goal
    try:
        mended = applied(bench.model, edits)
        after = _after(found, mended)
        others = _rerun(mended, apart)
    except ArrcocError:
        return None
    if not np.isfinite(after):
        return None
    return Tried(
        edits=edits, case_tokens_before=bench.before, case_tokens_after=after,
        mends=bool(goal.met(torch.tensor([after]))[0]), similar=_mended(apart, others, goal),
        collateral=moved(apart, others), keeps_total=_keeps_total(mended, others),
        where_right=_moved_where_right(apart, others, goal),
        around=any(_around(bench.model, edit) for edit in edits),
    )  # fmt: skip


def _around(model: Model, edit: PatchEdit) -> bool:
    read = edit.words.get("inputs", "").split("|")
    return any(around_scores(model, name, edit.target) for name in read if name in model.sites)


def _after(found: Diagnosis, mended: Model) -> float:
    """Return the case's tokens with the edits: the worst of several runs where runs differ."""
    bench, sign = found.bench, found.failure.goal.sign
    if found.stage != "runtime":
        return float(bench.tokens(carried(mended, bench.clean, inner_sites(mended)))[0])
    mates = [scene.image for scene in bench.donors.scenes[:MATES]]
    asked = [scene.query for scene in bench.donors.scenes[:MATES]]
    read = []
    for count in range(REPEATS):
        beside = count % 2 and bench.model.declaration.batch_invariant
        images = [found.case.image, *(mates if beside else [])]
        ran = run(mended, images, [found.case.query, *(asked if beside else [])])
        read.append(float(bench.tokens(ran)[0]))
    return min(read, key=lambda tokens: tokens * sign)


def _keeps_total(model: Model, after: Donors) -> bool:
    declared = model.declaration
    sums = after.run.allocation.tokens.sum(1)
    if not declared.conserved_total:
        return True
    total = declared.total if declared.total is not None else float(sums.median())
    return bool(((sums - total).abs() <= 1e-3 * total).all())


def _rerun(model: Model, apart: Donors) -> Donors:
    return replace(apart, ran=carried(model, apart.run, inner_sites(model)))


def _mended(before: Donors, after: Donors, goal: Goal) -> tuple[int, int, int]:
    failing = ~goal.met(before.tokens)
    return (
        int(failing.sum()), int((failing & goal.met(after.tokens)).sum()), len(before.scenes)
    )  # fmt: skip


def moved(before: Donors, after: Donors) -> float:
    """Return the mean change of tokens, half its L1 norm as a share of what was spent before."""
    return float(_moves(before, after).mean())


def _moves(before: Donors, after: Donors) -> torch.Tensor:
    old, new = (one.run.allocation.tokens for one in (before, after))
    return (new - old).abs().sum(1) / old.sum(1).clamp(min=1e-9) / 2


def _moved_where_right(before: Donors, after: Donors, goal: Goal) -> float | None:
    right = goal.met(before.tokens)
    return float(_moves(before, after)[right].mean()) if bool(right.any()) else None


def repair(
    found: Diagnosis, *, screen: Screen | None = None, most: int = 6, seed: int = 0
) -> Repair:
    """Return the smallest edits that mend a diagnosed case, and what they do to all else.

    Args:
        found: of a case that is a failure.
        screen: judges claims, where there is a choice; None leaves verdicts out.
        most: so many candidates are screened, fewest numbers and least collateral first.
        seed: of scenes kept apart.
    """
    made = Repair(diagnosis=found)
    if found.failure.answer != "yes" or not found.causes:
        return made
    apart = similar_donors(found.bench.model, SIMILAR_ROLE, seed, boxed=found.case.boxed)
    rows: list[Tried] = []
    for group in propose(found):
        rows += [one for edits in group if (one := tried(found, edits, apart)) is not None]
        if any(row.mends for row in rows):
            break
    rows.sort(key=_rank)
    made.tried = rows
    model = found.bench.model
    patterns = _dependent(found)
    mending = _varied([row for row in rows if row.mends], most)
    for place, row in enumerate(mending):
        if screen is not None and len(mending) > 1:
            worse, better = screen(model, applied(model, row.edits), patterns)
            screened = replace(
                row, flipped_verdicts=worse, gained_verdicts=better, screened=", ".join(patterns)
            )
            rows[rows.index(row)] = row = screened
        if not row.flipped_verdicts and row.within:
            made.winner = row
            break
        if place == 0 or made.winner is None or _harm(row) < _harm(made.winner):
            made.winner = row
    return made


def _varied(rows: Sequence[Tried], most: int) -> list[Tried]:
    """Return the best of each sort of edit, then the second best: alike edits fare alike.

    The last is the one that moves least elsewhere, so that it is among them.
    """
    seen: Counter[tuple[tuple[str | bool, ...], ...]] = Counter()
    turns = []
    for row in rows:
        sort = tuple(map(_sort, row.edits))
        turns.append(seen[sort])
        seen[sort] += 1
    varied = [rows[k] for k in sorted(range(len(rows)), key=turns.__getitem__)]
    narrow = min(varied, key=lambda row: row.collateral, default=None)
    if narrow is None or narrow in varied[:most]:
        return varied[:most]
    return [*varied[: most - 1], narrow]


def _sort(edit: PatchEdit) -> tuple[str | bool, ...]:
    """Return what makes edits alike: kind, target, what it reads, a place, a bias beside a gain."""
    bias = edit.tensors.get("bias")
    shifts = bias is not None and bool((bias != 0).any())
    return edit.kind, edit.target, edit.words.get("inputs", ""), "mask" in edit.tensors, shifts


def _harm(row: Tried) -> tuple[int, bool, float]:
    return len(row.flipped_verdicts or ()), not row.within, row.collateral


def _rank(row: Tried) -> tuple[bool, bool, bool, float, float, int]:
    """Mending, total kept and no way around the scores first; then similar cases, least moved."""
    share = row.similar[1] / row.similar[0] if row.similar[0] else 1.0
    return (
        not row.mends, not row.keeps_total, row.around, -round(share, 1), round(row.collateral, 2),
        row.numbers,
    )  # fmt: skip


def _dependent(found: Diagnosis) -> tuple[str, ...]:
    """Return patterns of the claims about what is blamed and what lies behind it."""
    late = all(STAGES.index(c.stage) >= STAGES.index("balancing") for c in found.causes)
    scores = ("knowing.*-causes-tokens", "knowing.*-is-necessary") if late else ("knowing.*",)
    return (*scores, "balancing.*", "attending.*", "whole.*")


def confirm(made: Repair, screen: Screen, seed: int = 0) -> Repair:
    """Judge the whole suite once with the winner, on photographs that chose nothing."""
    if made.winner is None:
        return made
    model = made.diagnosis.bench.model
    mended = applied(model, made.winner.edits)
    worse, better = screen(model, mended, ("*",))
    found = made.diagnosis
    last = similar_donors(model, CONFIRM_ROLE, seed, boxed=found.case.boxed)
    after = _rerun(mended, last)
    made.winner = replace(
        made.winner, flipped_verdicts=worse, gained_verdicts=better, screened="whole suite",
        collateral=moved(last, after),
        where_right=_moved_where_right(last, after, found.failure.goal),
    )  # fmt: skip
    made.confirmed = (
        f"whole suite: {len(worse)} verdicts got worse, {len(better)} better; on "
        f"{len(last.scenes)} scenes of role {CONFIRM_ROLE} the "
        f"allocation moved by {made.winner.collateral:.3f}"
    )
    return made
