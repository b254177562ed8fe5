"""The search for the cause: single parts, then pairs, milder changes before bolder ones.

A cause is named only if putting it right alone brings the tokens back and putting each rival right
alone does not. Two are named where neither alone brings them back and both together do.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from arrcoc_verify.debug import by_contract, by_donors
from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.competition import of_competition
from arrcoc_verify.debug.experiment import Evidence, Trial, attempted
from arrcoc_verify.debug.parts import Part, Workshop, can_join
from arrcoc_verify.debug.second import second_part
from arrcoc_verify.errors import ArrcocError

FEWEST_RIGHT = 8
"""Donors that got what they should, fewer of which are no reference."""


@dataclass(kw_only=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        parts: those that together bring the tokens back, in the order of data; empty for none.
        trial: on which they were tried; None when nothing could be.
        evidence: every experiment, in order.
        rivals: names of parts that alone bring the tokens back as well.
        competition: the experiment that shows that others have as good a claim, or "".
        broken: the part breaks its contract in the case, whatever else could make up for it.
    """

    parts: tuple[Part, ...] = ()
    trial: Trial | None = None
    evidence: list[Evidence] = field(default_factory=list)
    rivals: list[str] = field(default_factory=list)
    competition: str = ""
    broken: bool = False


def search(bench: Bench, goal: Goal, missing: list[str]) -> Found:
    """Return the fewest parts that bring the tokens back, with every experiment on the way.

    Donors are the reference first, then the parts' contracts. Competition is looked at when no mild
    change mends the case though others are served: bold ones win any competition.
    """
    right = bench.right(goal)
    trusted = int(right.sum()) >= FEWEST_RIGHT
    found = Found()
    if bench.donors.scenes:
        keep = right if trusted else _better_half(bench, goal)
        trial = Trial(Workshop(bench=bench, goal=goal, keep=keep), "donors")
        made = by_donors.parts(trial.shop)
        if not trusted:
            missing.append(
                f"{int(right.sum())} donors got what is asked ({FEWEST_RIGHT} are wanted): the "
                "better half of all donors is the reference, and the parts' contracts are tried"
            )
        if _singles(found, trial, made, missing):
            _broken(found, missing)
            return found
        if trusted and _pairs(found, trial, made):
            return found
    trial = _contracts(bench, goal)
    made = by_contract.parts(trial.shop)
    if _mildly(found, trial, made, missing):
        _with_second(found, bench, missing)
        return found
    if trusted:
        rest = of_competition(bench, goal)
        found.evidence += rest
        if rest and all(one.restores == "yes" for one in rest):
            found.competition = rest[0].experiment
            return found
    _boldly(found, trial, made, missing)
    _with_second(found, bench, missing)
    return found


def _contracts(bench: Bench, goal: Goal) -> Trial:
    none = np.zeros(len(bench.donors.scenes), dtype=bool)
    return Trial(Workshop(bench=bench, goal=goal, keep=none), "contract")


def _broken(found: Found, missing: list[str]) -> None:
    """Put a broken contract in the place of a scorer that would only make up for it.

    A sign that is turned, or relevance out of the order of the weighted scores, is a fault for
    sure; that a scorer could say more where it says little is not.
    """
    if found.trial is None or any(not part.name.startswith("scorer") for part in found.parts):
        return
    trial = _contracts(found.trial.bench, found.trial.shop.goal)
    rival = found.parts[0]
    if _singles(found, trial, by_contract.broken(trial.shop), missing):
        found.broken = True
        if rival.code != found.parts[0].code:
            found.rivals.append(rival.name)


def _with_second(found: Found, bench: Bench, missing: list[str]) -> None:
    """Add the part that is at fault besides the one that was found, if there is one."""
    if len(found.parts) != 1 or found.trial is None:
        return
    (first,) = found.parts
    other, evidence = second_part(bench, first, found.trial, missing)
    found.evidence += evidence
    if other is not None:
        found.parts = tuple(_in_flow([first, other]))


def _mildly(found: Found, trial: Trial, made: Sequence[Part], missing: list[str]) -> bool:
    """Try what stays inside a part's own values, then what changes its range."""
    mild = [part for part in made if part.strength == by_contract.MILD]
    if _singles(found, trial, mild, missing):
        return True
    if any(part.name == "multiplier" and _changes(trial, part) for part in mild):
        # The declared total is not spent, which is wrong whatever else is: what comes with it?
        for level in (by_contract.MILD, by_contract.RANGE, by_contract.BOLD):
            tried = [part for part in made if part.strength <= level]
            if _pairs(found, trial, tried, "multiplier"):
                return True
    ranged = [part for part in made if part.strength == by_contract.RANGE]
    return (
        _nearly(found, trial, mild)
        or _pairs(found, trial, mild)
        or _halfway(found, trial, mild, missing)
        or _singles(found, trial, ranged, missing)
    )


NEARLY = 0.75
"""Share of what is missing that a part brings which is at fault alone."""


def _nearly(found: Found, trial: Trial, mild: Sequence[Part]) -> bool:
    """Take a scorer that brings most of what is missing, and more than twice what any other does.

    What a contract hands out is coarse: it has to mend by its share of the region, or of the rest.
    """
    goal = trial.shop.goal
    least = NEARLY * (goal.tokens - trial.bench.before) * goal.sign
    effects = {
        one.part: one.effect * goal.sign for one in found.evidence if one.basis == trial.basis
    }
    scoring = [part for part in mild if part.name.startswith("scorer:")]
    for first in sorted(scoring, key=lambda part: -effects.get(part.name, 0.0)):
        gain = effects.get(first.name, 0.0)
        others = [effects.get(one.name, 0.0) for one in mild if one.role != first.role]
        if gain < least or 2 * max(others, default=0.0) >= gain:
            return False
        tried = [trial.evidence([first], where) for where in ("region", "rest")]
        mending = [one for one in tried if one.restores == "yes"]
        if mending:
            found.evidence += mending
            found.parts, found.trial = (first,), trial
            return True
    return False


HALFWAY = 0.25
"""Share of what is missing that a part brings which may be one of two causes."""


def _halfway(found: Found, trial: Trial, mild: Sequence[Part], missing: list[str]) -> bool:
    """Take parts that bring some tokens back, and look for the other cause among like regions."""
    goal, bench = trial.shop.goal, trial.bench
    least = HALFWAY * (goal.tokens - bench.before) * goal.sign
    effects = {
        one.part: one.effect * goal.sign for one in found.evidence if one.basis == "contract"
    }
    for first in sorted(mild, key=lambda part: -effects.get(part.name, 0.0)):
        if effects.get(first.name, 0.0) < least:
            break
        other, evidence = second_part(bench, first, trial, missing)
        found.evidence += evidence
        if other is not None:
            found.parts, found.trial = tuple(_in_flow([first, other])), trial
            return True
    return False


def _boldly(found: Found, trial: Trial, made: Sequence[Part], missing: list[str]) -> None:
    bold = [part for part in made if part.strength == by_contract.BOLD]
    if not _singles(found, trial, bold, missing):
        milder = [part for part in made if part.strength < by_contract.BOLD]
        if not _pairs(found, trial, milder):
            _pairs(found, trial, made)


def _better_half(bench: Bench, goal: Goal) -> NDArray[np.bool_]:
    tokens = bench.donors.tokens * goal.sign
    return np.asarray(tokens >= tokens.median())


def _singles(found: Found, trial: Trial, made: Sequence[Part], missing: list[str]) -> bool:
    tried: list[tuple[Part, Evidence]] = []
    for part in made:
        got = attempted(missing, part.said, partial(trial.evidence, [part]))
        if got is not None:
            tried.append((part, got))
            found.evidence.append(got)
    mending = [(part, one) for part, one in tried if one.restores == "yes"]
    single = [(part, one) for part, one in mending if part.name != "scorers"]
    if not mending:
        return False
    chosen = _chosen(single or mending, trial)
    found.parts, found.trial = (chosen,), trial
    found.rivals = [part.name for part, _ in single if part.code != chosen.code]
    return True


def _chosen(mending: Sequence[tuple[Part, Evidence]], trial: Trial) -> Part:
    """Return the part to name: against donors the largest effect, by contract the first in flow."""
    if trial.basis == "contract":
        return mending[0][0]
    best = max(mending, key=lambda row: abs(row[1].effect))[0]
    return next(part for part, _ in mending if part.code == best.code)


def _changes(trial: Trial, part: Part) -> bool:
    return abs(trial.evidence([part]).effect) > 0


def _pairs(found: Found, trial: Trial, made: Sequence[Part], with_part: str = "") -> bool:
    best: tuple[float, tuple[Part, ...]] | None = None
    singles = {one.part: one.effect for one in found.evidence if one.basis == trial.basis}
    for pair in itertools.combinations(_in_flow(made), 2):
        if not can_join(pair) or (with_part and with_part not in [one.name for one in pair]):
            continue
        try:
            got = trial.evidence(pair)
        except ArrcocError:
            continue
        if got.restores != "yes":
            continue
        found.evidence.append(got)
        gain = abs(got.effect) - max(abs(singles.get(part.name, 0.0)) for part in pair)
        if best is None or gain > best[0]:
            best = (gain, pair)
    if best is None:
        return False
    found.parts, found.trial = best[1], trial
    return True


def _in_flow(made: Sequence[Part]) -> list[Part]:
    return sorted(made, key=lambda part: FLOW.index(part.name.split("/")[0]))


FLOW = (
    "scorer:information", "scorer:salience", "scorer:query_relevance", "scorers", "tensions",
    "weights", "mix", "curve", "multiplier", "allocator",
)  # fmt: skip
"""Parts in the order in which data flows."""
