"""Planted failures with known cause: is it named first, and does a repair mend it?

    arrcoc-verify planted --model reference:analytic --json reports/debug_planted.json

Each operator is planted into the sound model on the composed scene (of eight) where it costs the
target most. The goal is 70 % of the way back to what the sound model gives, so it says nothing of
where the fault lies. A failure that costs less than a fifth is not counted, and said so. Two causes
count as such only if each alone, with the other sound, still misses the goal.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from arrcoc_verify.audit import scene_size
from arrcoc_verify.debug.bench import Bench, Donors, donor_scenes, make_donors
from arrcoc_verify.debug.case import Case, Goal, make_case
from arrcoc_verify.debug.diagnosis import Diagnosis, debug
from arrcoc_verify.debug.operators import OPERATORS, PAIRS, Operator, operator, planted_picture
from arrcoc_verify.model import Model
from arrcoc_verify.scenes.compose import scenes

BACK = 0.7
"""Share of the way back to the sound model's tokens that counts as mended."""

LEAST_COST = 0.2
"""A fault that costs less than this share of the tokens is no failure."""

TRIED = 8
"""Scenes on which a fault is tried; it is planted where it costs most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A failure with known cause.

    Attributes:
        name: of the operator, or of both.
        codes: causes, the first in flow first.
        model: the broken model; None where the sound one has no such part.
        case: where it costs most.
        goal: what counts as mended.
        sound: tokens of the sound model there.
        broken: tokens of the broken one.
        skipped: why it does not count, or "".
    """

    name: str
    codes: tuple[str, ...]
    model: Model | None
    case: Case | None
    goal: Goal | None
    sound: float
    broken: float
    skipped: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What debugging said of a planted failure."""

    planted: Planted
    found: Diagnosis

    @property
    def first_right(self) -> bool:
        """The cause named first is one that was planted."""
        named = [cause.code for cause in self.found.causes]
        return bool(named) and named[0] in self.planted.codes

    @property
    def all_right(self) -> bool:
        """Every planted cause is named, and no other."""
        return {cause.code for cause in self.found.causes} == set(self.planted.codes)


def cases_of(model: Model, seed: int = 0) -> list[Case]:
    """Return the cases that faults are planted on: composed scenes of the assert role."""
    made = scenes(
        "assert", grid=model.declaration.grid, size=scene_size(model), per_cluster=1, seed=seed
    )
    return [make_case(model, s.image, s.query, s.target) for s in made[:TRIED]]


def plant(model: Model, seed: int = 0, names: Sequence[str] = ()) -> Iterator[Planted]:
    """Yield every planted failure of a model, single causes first."""
    cases = cases_of(model, seed)
    sound = [Bench(model, case, _none(), seed).before for case in cases]
    for one in OPERATORS:
        if not names or one.name in names:
            yield _planted(model, (one,), cases, sound)
    for first, second in PAIRS:
        if not names or f"{first}+{second}" in names:
            yield _planted(model, (operator(first), operator(second)), cases, sound)


def _none() -> Donors:
    return Donors(scenes=(), run=None, cells=None)  # type: ignore[arg-type]


def _planted(
    model: Model, ways: tuple[Operator, ...], cases: Sequence[Case], sound: Sequence[float]
) -> Planted:
    name = "+".join(one.name for one in ways)
    codes = tuple(dict.fromkeys(one.code for one in ways))
    best: Planted | None = None
    for case, before in zip(cases, sound, strict=True):
        shown = planted_picture(ways[0], case, model.declaration.grid)
        made = [_made(model, ways, shown), *(_made(model, (one,), shown) for one in ways)]
        if any(one is None for one in made):
            return Planted(
                name=name, codes=codes, model=None, case=None, goal=None, sound=0, broken=0,
                skipped="the model has no such part",
            )  # fmt: skip
        tokens = [Bench(one, shown, _none()).before for one in made if one is not None]
        goal = Goal(tokens=round(tokens[0] + BACK * (before - tokens[0]), 1))
        why = ""
        if before - tokens[0] < LEAST_COST * before:
            why = "it costs less than a fifth of the tokens"
        elif len(ways) > 1 and max(tokens[1:]) >= goal.tokens:
            why = "one of the two alone does not miss the goal"
        found = Planted(
            name=name, codes=codes, model=made[0], case=shown, goal=goal, sound=before,
            broken=tokens[0], skipped=why,
        )  # fmt: skip
        if best is None or _key(found) > _key(best):
            best = found
    if best is None:
        raise ValueError("no case to plant a failure on")
    return best


def _key(one: Planted) -> tuple[bool, float]:
    return (not one.skipped, one.sound - one.broken)


def _made(model: Model, ways: Sequence[Operator], case: Case) -> Model | None:
    broken: Model | None = model
    for one in reversed(ways):  # later parts first, so that the earlier one wraps nothing twice
        broken = one.make(broken, case) if broken is not None else None
    return broken


def diagnose(one: Planted, seed: int = 0) -> Outcome:
    """Debug a planted failure as a user would: from the broken model alone."""
    if one.model is None or one.case is None:
        raise ValueError(f"{one.name} was not planted")
    donors = make_donors(one.model, donor_scenes(one.model, seed))
    return Outcome(planted=one, found=debug(one.model, one.case, one.goal, donors=donors, seed=seed))


def run(
    model: Model, seed: int = 0, names: Sequence[str] = (),
    tell: Callable[[Outcome], None] | None = None,
) -> tuple[list[Outcome], list[Planted]]:
    """Return what debugging said of every planted failure, and which were not counted."""
    outcomes, skipped = [], []
    for one in plant(model, seed, names):
        if one.skipped:
            skipped.append(one)
            continue
        outcomes.append(diagnose(one, seed))
        if tell is not None:
            tell(outcomes[-1])
    return outcomes, skipped
