"""Planted failures with known cause: is it named first, and does a repair mend it?

    arrcoc-verify planted --model reference:analytic --json reports/debug_planted.json

Each operator is planted into the sound model on the composed scene (of eight) where it costs the
target most; scenes that the sound model fails already, as `debug` says, have causes of their own
and are left out. The goal is 70 % of the way back to what the sound model gives, so it says nothing
of where the fault lies. A failure that costs less than a fifth is not counted, and said so. Two
causes count as such only if each alone, with the other sound, still misses the goal.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from arrcoc_verify.debug.bench import Bench, Donors, donor_scenes, inner_sites, make_donors
from arrcoc_verify.debug.carried import carried
from arrcoc_verify.debug.case import Case, Goal, make_case
from arrcoc_verify.debug.diagnosis import Diagnosis, debug, no_donors
from arrcoc_verify.debug.failure import is_failure
from arrcoc_verify.debug.operators import OPERATORS, PAIRS, Operator, operator, planted_picture
from arrcoc_verify.debug.repair import confirm, repair
from arrcoc_verify.debug.screening import CONFIRMED, RANK, Judge, Outcomes, Shared, screening
from arrcoc_verify.errors import UnknownName, UsageError
from arrcoc_verify.lab import scene_size
from arrcoc_verify.model import Model
from arrcoc_verify.report.atomic import make_folder, write_text
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.stats.interval import proportion_interval

BACK = 0.7
"""Share of the way back to the sound model's tokens that counts as mended."""

LEAST_COST = 0.2
"""A fault that costs less than this share of the tokens is no failure."""

TRIED = 8
"""Scenes on which a fault is tried; it is planted where it costs most."""


NAMES = (*(one.name for one in OPERATORS), *("+".join(pair) for pair in PAIRS))
"""Names of all planted failures, single causes first."""


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
    return [make_case(model, s.image, s.query, s.target) for s in _shown(model, seed)]


def _shown(model: Model, seed: int) -> list[Scene]:
    """Return few objects on two photographs each, so that few are lost to confirming."""
    made = scenes(
        "assert", grid=model.declaration.grid, size=scene_size(model), per_cluster=2, seed=seed
    )
    return list(made[:TRIED])


def confirming(model: Model, seed: int = 0) -> Judge:
    """Return the judge of whole suites; the objects and photographs of the cases are left out."""
    shown = {scene.cluster for scene in _shown(model, seed)}
    return Judge(CONFIRMED, Shared(model, seed), tuple(shown))


def plant(
    model: Model, seed: int = 0, names: Sequence[str] = (), donors: Donors | None = None
) -> Iterator[Planted]:
    """Yield the planted failures of a model whose name fits a shell pattern, singles first.

    Args:
        model: sound.
        seed: of every draw.
        names: shell patterns; none for all.
        donors: of the sound model, where they are there already.

    Raises:
        UsageError: the model fails every case as it is.
    """
    donors = make_donors(model, donor_scenes(model, seed)) if donors is None else donors
    benches = [Bench(model, case, donors, seed) for case in cases_of(model, seed)]
    sound = [bench for bench in benches if is_failure(bench, None).answer != "yes"]
    if not sound:
        raise UsageError(f"{model.name} fails all {TRIED} scenes as it is: nothing to plant into")
    for name in NAMES:
        if not names or any(fnmatchcase(name, pattern) for pattern in names):
            yield _planted(model, tuple(map(operator, name.split("+"))), sound)


def _planted(model: Model, ways: tuple[Operator, ...], sound: Sequence[Bench]) -> Planted:
    name = "+".join(one.name for one in ways)
    codes = tuple(dict.fromkeys(one.code for one in ways))
    best: Planted | None = None
    for bench in sound:
        case, before = bench.case, bench.before
        shown = planted_picture(ways[0], case, model.declaration.grid)
        made = [_made(model, ways, shown), *(_made(model, (one,), shown) for one in ways)]
        if any(one is None for one in made):
            return Planted(
                name=name, codes=codes, model=None, case=None, goal=None, sound=0, broken=0,
                skipped="the model has no such part",
            )  # fmt: skip
        tokens = [_tokens(one, bench, shown) for one in made if one is not None]
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


def _tokens(broken: Model, sound: Bench, shown: Case) -> float:
    """Return what the region gets from a broken model; the sound one's steps are taken over."""
    bench = Bench(broken, shown, no_donors())
    if shown is not sound.case:
        return bench.before
    return float(bench.tokens(carried(broken, sound.clean, bench.inner))[0])


def _key(one: Planted) -> tuple[bool, float]:
    return (not one.skipped, one.sound - one.broken)


def _made(model: Model, ways: Sequence[Operator], case: Case) -> Model | None:
    broken: Model | None = model
    for one in reversed(ways):  # later parts first, so that the earlier one wraps nothing twice
        broken = one.make(broken, case) if broken is not None else None
    return broken


def diagnose(one: Planted, seed: int = 0, sound: Donors | None = None) -> Outcome:
    """Debug a planted failure as a user would: from the broken model alone.

    Args:
        one: what was planted.
        seed: of every draw.
        sound: donors of the sound model; only to save time, by what both models have in common.
    """
    if one.model is None or one.case is None:
        raise ValueError(f"{one.name} was not planted")
    if sound is None:
        donors = make_donors(one.model, donor_scenes(one.model, seed))
    else:
        ran = carried(one.model, sound.run, inner_sites(one.model))
        donors = replace(sound, ran=ran)
    return Outcome(
        planted=one, found=debug(one.model, one.case, one.goal, donors=donors, seed=seed)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One planted failure, as it is kept.

    Attributes:
        name: of the planted failure.
        planted: its causes.
        named: causes that were named, in order.
        stage: stage that was named.
        cause_first: the first named cause was planted.
        all_named: exactly the planted causes were named.
        sound: tokens of the sound model.
        broken: tokens of the broken one.
        goal: what counts as mended.
        repair: what the winning repair does, or "".
        repaired_tokens: what the region gets with it.
        mended: the repair mends the case.
        flipped: claims whose verdict got worse by it; None when no suite was run.
        harmed: those of them whose verdict is worse than the sound model's, too: the rest is
            what the fault had hidden, as a model deaf to its query survives every paraphrase.
        hidden: claims whose verdict is worse in the sound model than in the broken one: the sound
            model in its place would be no repair without a worse verdict either.
        skipped: why it is not counted, or "".
        seconds: wall time.
    """

    name: str
    planted: tuple[str, ...]
    named: tuple[str, ...] = ()
    stage: str | None = None
    cause_first: bool = False
    all_named: bool = False
    sound: float = 0.0
    broken: float = 0.0
    goal: float = 0.0
    repair: str = ""
    repaired_tokens: float = 0.0
    mended: bool = False
    flipped: tuple[str, ...] | None = None
    harmed: tuple[str, ...] | None = None
    hidden: tuple[str, ...] | None = None
    skipped: str = ""
    seconds: float = 0.0


def row_of(
    one: Planted, seed: int = 0, *, judge: Judge | None = None, sound: Donors | None = None,
    best: Outcomes | None = None,
) -> Row:  # fmt: skip
    """Debug and repair a planted failure; the suite judges what a repair does to verdicts.

    Args:
        one: what was planted.
        seed: of every draw.
        judge: of whole suites, as `confirming` makes it; None leaves the suite out.
        sound: donors of the sound model, to save time.
        best: what the judge says of the sound model, by claim; needed with `judge`.
    """
    start = time.perf_counter()
    base = Row(
        name=one.name, planted=one.codes, sound=one.sound, broken=one.broken,
        goal=one.goal.tokens if one.goal else 0.0, skipped=one.skipped,
    )  # fmt: skip
    if one.skipped:
        return base
    got = diagnose(one, seed, sound)
    screen = screening(judge.shared) if judge is not None else None
    made = repair(got.found, screen=screen, seed=seed)
    harmed = hidden = None
    if judge is not None:
        made = confirm(made, judge, seed)
        if made.winner is not None and best is not None:
            worse = made.winner.flipped_verdicts or ()
            harmed = tuple(name for name in worse if RANK[judge.last[name]] < RANK[best[name]])
            before = judge.known(got.found.bench.model, ("*",))
            hidden = tuple(name for name in best if RANK[best[name]] < RANK[before[name]])
    won = made.winner
    return replace(
        base, named=tuple(cause.code for cause in got.found.causes), stage=got.found.stage,
        cause_first=got.first_right, all_named=got.all_right, mended=won is not None,
        repair=" and ".join(edit.said for edit in won.edits) if won else "",
        repaired_tokens=won.case_tokens_after if won else 0.0,
        flipped=won.flipped_verdicts if won else None, harmed=harmed, hidden=hidden,
        seconds=round(time.perf_counter() - start, 1),
    )  # fmt: skip


def run(
    model: Model, folder: Path | None = None, *, seed: int = 0, suite: bool = True,
    names: Sequence[str] = (), tell: Callable[[Row], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Return a row for every planted failure; rows kept in `folder` are taken from there.

    Args:
        model: sound.
        folder: where rows are kept, so that a stopped run goes on.
        seed: of every draw.
        suite: judge what repairs do to verdicts.
        names: shell patterns of the failures that are planted; none for all.
        tell: called with each row.
    """
    if names and not any(fnmatchcase(name, pattern) for name in NAMES for pattern in names):
        raise UnknownName("planted failure", ", ".join(names), NAMES)
    rows, judge = [], confirming(model, seed) if suite else None
    best: Outcomes | None = None
    sound = make_donors(model, donor_scenes(model, seed))
    for one in plant(model, seed, names, sound):
        path = None if folder is None else folder / f"{one.name}.json"
        row = _read(path)
        if row is None:
            if judge is not None and best is None:
                best = judge.outcomes(model, ("*",))
            row = row_of(one, seed, judge=judge, sound=sound, best=best)
            if path is not None:
                make_folder(path.parent)
                write_text(path, json.dumps(asdict(row)))
        rows.append(row)
        if tell is not None:
            tell(row)
    return rows


def _read(path: Path | None) -> Row | None:
    if path is None or not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return Row(**{**data, **lists})
    except (OSError, ValueError, TypeError):
        return None


def summary(rows: Sequence[Row], model: str, seed: int) -> dict[str, Any]:
    """Return what is written as JSON: the figures, then the rows they come from."""
    counted = [row for row in rows if not row.skipped]
    confirmed = [row for row in counted if row.mended and row.flipped is not None]
    repaired = [row for row in confirmed if not row.flipped]
    known = [r for r in confirmed if r.hidden is not None]
    unharmed = [r for r in confirmed if not (r.flipped if r.harmed is None else r.harmed)]
    count = len(counted)

    def share(many: int) -> dict[str, Any]:
        found = proportion_interval(many, count, 0.95) if count else None
        return {
            "count": many, "share": many / count if count else None,
            "interval": [found.low, found.high] if found else None,
        }  # fmt: skip

    first = sum(row.cause_first for row in counted)
    judged = all(row.flipped is not None or not row.mended for row in counted)
    return {
        "model": model, "seed": seed, "n": count,
        "cause_first": first / count if count else None,
        "repaired": len(repaired) / count if count and judged else None,
        "figures": {
            "cause first": share(first),
            "exactly the planted causes": share(sum(row.all_named for row in counted)),
            "case mended": share(sum(row.mended for row in counted)),
            **({
                "mended, no verdict worse": share(len(repaired)),
                "mended, no verdict worse than the sound model's": share(len(unharmed)),
            } if judged else {}),
            **({
                "no verdict worse with the sound model in its place":
                    share(sum(not r.hidden for r in known)),
            } if judged and known and len(known) == len(confirmed) else {}),
        },
        "not_counted": [{"name": r.name, "reason": r.skipped} for r in rows if r.skipped],
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
