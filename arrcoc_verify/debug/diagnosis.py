"""The answer for one case: is it a failure, where is it lost, what brings it back, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from arrcoc_verify.debug import repeats, trace, upstream
from arrcoc_verify.debug.against import Against
from arrcoc_verify.debug.against import against as with_other
from arrcoc_verify.debug.bench import Bench, Donors, donor_scenes, make_donors
from arrcoc_verify.debug.case import Case, Goal
from arrcoc_verify.debug.causes import MEANING, STAGE_OF, Cause
from arrcoc_verify.debug.competition import fires_without_reason, of_competition
from arrcoc_verify.debug.embedding import of_embedding
from arrcoc_verify.debug.experiment import Evidence, Trial
from arrcoc_verify.debug.failure import Failure, faces_behind, is_failure, rests_on
from arrcoc_verify.debug.parts import Part, scorers
from arrcoc_verify.debug.search import Found, search
from arrcoc_verify.graph import Run
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """What `debug` found.

    Attributes:
        case: what was asked.
        model: name of the model.
        failure: whether it is a failure, and of what.
        causes: named causes, the first one first; empty when none was shown.
        evidence: every experiment.
        ruled_out: codes of causes whose experiment did not bring the tokens back.
        undecided: what could not be told, and what would tell.
        not_run: experiments that this model does not allow.
        stations: where the region stands along the way.
        waterfall: (label, tokens) as scores are given back.
        paths: what each score carries, direct and through the budget.
        levers: what each tension does at either end of its range.
        features: channels that stand off, and what they do.
        restored: run of the case with the cause put right, or None.
        against: what another picture shows beside it, or None.
        rests_on: how many faces and other objects the answer rests on, in words.
        bench: to go on with, as a repair does.
        parts: what was put right, for a repair.
        trial: on which it was tried, to look at what else was.
    """

    case: Case
    model: str
    failure: Failure
    causes: tuple[Cause, ...]
    evidence: tuple[Evidence, ...]
    ruled_out: tuple[str, ...]
    undecided: tuple[str, ...]
    not_run: tuple[str, ...]
    stations: tuple[trace.Station, ...]
    waterfall: tuple[tuple[str, float], ...]
    paths: tuple[Mapping[str, Any], ...]
    levers: tuple[Mapping[str, Any], ...]
    features: tuple[Mapping[str, Any], ...]
    restored: Run | None
    bench: Bench
    parts: tuple[Part, ...] = ()
    trial: Trial | None = None
    against: Against | None = None
    rests_on: str = ""

    @property
    def stage(self) -> str | None:
        """The stage of the first cause, or None."""
        return self.causes[0].stage if self.causes else None

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        goal = self.failure.goal
        return {
            "model": self.model,
            "image": self.case.name,
            "query": self.case.query,
            "region": list(self.case.box),
            "label": self.case.label,
            "failure": self.failure.answer,
            "reason": self.failure.reason,
            "tokens": self.failure.tokens,
            "expected": str(goal),
            "elsewhere": self.failure.elsewhere,
            "rests_on": self.rests_on,
            "faces": faces_behind(self.bench),
            "stage": self.stage,
            "cause": self.causes[0].code if self.causes else None,
            "causes": [
                {"cause": c.code, "stage": c.stage, "site": c.site, "meaning": MEANING[c.code],
                 "detail": c.detail}
                for c in self.causes
            ],
            "evidence": [asdict(one) for one in self.evidence],
            "against": None if self.against is None else {
                "picture": self.against.name, "tokens": self.against.tokens,
                "site": self.against.site, "stage": self.against.stage, "said": self.against.said,
            },
            "ruled_out": list(self.ruled_out),
            "undecided": list(self.undecided),
            "not_run": list(self.not_run),
            "stations": [asdict(one) for one in self.stations],
            "waterfall": [list(step) for step in self.waterfall],
            "paths": [dict(one) for one in self.paths],
            "levers": [dict(one) for one in self.levers],
            "features": [dict(one) for one in self.features],
        }  # fmt: skip


def no_donors() -> Donors:
    """Return donors of which there are none."""
    return Donors(scenes=(), ran=None, cells=torch.zeros(0, 0, dtype=torch.bool))


@dataclass(kw_only=True)
class _Notes:
    evidence: list[Evidence] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def debug(
    model: Model,
    case: Case,
    expected: Goal | None = None,
    *,
    donors: Donors | None = None,
    against: str | Case = "",
    seed: int = 0,
) -> Diagnosis:
    """Return why a region gets what it gets.

    Args:
        model: model under test.
        case: picture, query and region, as `make_case` makes it.
        expected: what the region should get; None to compare it with donors.
        donors: queried objects elsewhere; None for those of the package.
        against: another query, or another picture's case, to compare with.
        seed: of every draw.
    """
    found = donors
    if found is None:
        found = make_donors(model, donor_scenes(model, seed), boxed=case.boxed)
    bench = Bench(model, case, found, seed)
    failure = is_failure(bench, expected)
    notes = _Notes()
    causes: tuple[Cause, ...] = ()
    sought, beside = Found(), None
    if failure.answer == "yes":
        query = against if isinstance(against, str) else ""
        causes, sought = _causes(bench, failure.goal, query, notes)
        _compete(bench, failure.goal, causes, notes)
        _take_on_trust(causes, sought, notes)
    elif failure.answer == "no":
        notes.undecided.append("it is no failure, so no cause was looked for")
    else:
        notes.undecided.append(failure.reason)
    if isinstance(against, Case):
        beside = with_other(bench, failure.goal, against)
        notes.evidence += beside.evidence
    _lacking(model, notes)
    named = {cause.code for cause in causes}
    return Diagnosis(
        case=case, model=model.name, failure=failure, causes=causes,
        evidence=tuple(notes.evidence), ruled_out=_ruled_out(notes.evidence, named, sought.parts),
        undecided=tuple(dict.fromkeys(notes.undecided)),
        not_run=tuple(dict.fromkeys(notes.missing)), stations=tuple(trace.stations(bench)),
        waterfall=tuple(trace.waterfall(bench)), paths=tuple(trace.paths(bench)),
        levers=tuple(trace.levers(bench)),
        features=tuple(trace.features(bench, failure.goal)),
        restored=_restored(sought), bench=bench, parts=sought.parts, trial=sought.trial,
        against=beside, rests_on=rests_on(bench),
    )  # fmt: skip


def _compete(bench: Bench, goal: Goal, causes: Sequence[Cause], notes: _Notes) -> None:
    """Take competitors out in any case, and say what that tells where something else is named."""
    if any(one.part.startswith("competitors") for one in notes.evidence):
        return
    rest = of_competition(bench, goal)
    notes.evidence += rest
    if causes and rest and all(one.restores == "yes" for one in rest):
        notes.undecided.append(
            "without its competitors the region gets its tokens, too, as more budget makes up for "
            "most that is lost: competition is named only where no part departs from what it should"
        )


def _take_on_trust(causes: Sequence[Cause], sought: Found, notes: _Notes) -> None:
    """Say what a cause among the scorers rests on when no donor's object was the reference."""
    if sought.trial is None or sought.trial.basis != "contract":
        return
    if any(cause.stage == "knowing" for cause in causes):
        notes.undecided.append(
            "that the query asks for this region is taken on trust, no experiment shows it: if it "
            "does not, the scorer is right; --against with a query that names what is there tells"
        )


def _restored(sought: Found) -> Run | None:
    if sought.trial is None or not sought.parts:
        return None
    return sought.trial.view(sought.parts).run


def _causes(
    bench: Bench, goal: Goal, against: str, notes: _Notes
) -> tuple[tuple[Cause, ...], Found]:
    runtime = repeats.of_runs(bench, goal)
    notes.evidence += runtime.evidence
    notes.undecided += runtime.undecided
    if runtime.cause is not None:
        return (runtime.cause,), Found(parts=runtime.parts, trial=runtime.trial)
    asked = upstream.of_queries(bench, goal, against)
    shown = upstream.of_pictures(bench, goal)
    notes.evidence += [*asked.evidence, *shown.evidence]
    sought = search(bench, goal, notes.missing)
    notes.evidence += sought.evidence
    unheard = bool(asked.code) and not sought.broken
    if unheard and any(one.restores == "yes" for one in asked.evidence):
        return (Cause(code=asked.code, site=_site(bench, "query"), detail=asked.detail),), sought
    if unheard and (how := _query_mends(bench, goal, sought, notes)):
        detail = f"{asked.detail}; {how}"
        return (Cause(code=asked.code, site=_site(bench, "query"), detail=detail),), sought
    if shown.code:
        return (Cause(code=shown.code, detail=shown.detail),), sought
    if sought.competition:
        return (Cause(code="budget_competition", detail=sought.competition),), sought
    if not sought.parts:
        return _without_parts(bench, goal, asked, notes), sought
    causes = [_named(bench, goal, part, sought, asked, notes) for part in sought.parts]
    if sought.rivals:
        notes.undecided.append(
            f"{', '.join(sought.rivals)} alone would bring the tokens back as well: "
            "more donors, or cases that fail without it, would tell them apart"
        )
    return _alone_if_shared(causes), sought


def _alone_if_shared(causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """Return competition alone where it is among the causes.

    Nothing then departs from what it should: what else was moved serves one at others' cost.
    """
    shared = [cause for cause in causes if cause.code == "budget_competition"]
    return tuple(dict.fromkeys(shared or causes))


_HEARS_QUERY = frozenset({"scorer:query_relevance", "tensions", "weights"})
"""Parts that read the query."""


def _query_mends(bench: Bench, goal: Goal, sought: Found, notes: _Notes) -> str:
    """Return how a query that means something would mend what one that means nothing does, or "".

    Either another embedding brings the tokens back, or putting right the parts that hear the query,
    and only these, does.
    """
    other = of_embedding(bench, goal, float("-inf"), held=False)
    notes.evidence += other.evidence
    if other.code:
        return other.detail
    names = {part.name.split("/")[0] for part in sought.parts}
    if not names or not names <= _HEARS_QUERY or "scorer:query_relevance" not in names:
        return ""
    said = "what hears the query, put right and nothing else, brings the tokens back"
    if sought.trial is not None:
        whole = sought.trial.evidence(sought.parts)
        notes.evidence.append(replace(whole, code="query_mismatch", experiment=said, part="query"))
    notes.undecided.append(
        "whether the scorer answers queries that the model knows was not seen, since no other "
        "query that was tried restores it: --against with one whose words it knows would show that"
    )
    return said


def _without_parts(
    bench: Bench, goal: Goal, asked: upstream.Upstream, notes: _Notes
) -> tuple[Cause, ...]:
    rest = of_competition(bench, goal)
    notes.evidence += rest
    if rest and all(one.restores == "yes" for one in rest):
        return (Cause(code="budget_competition", detail=rest[0].experiment),)
    if asked.code:
        notes.undecided.append(
            f"{asked.detail}, but no other query or embedding that was tried brings the tokens "
            "back: --against with a query that the model is known to understand would show it"
        )
    notes.undecided.append(
        "no part alone and no two together bring the tokens back: a sound copy of the model, "
        "or donors that got what they should, would show which stage departs"
    )
    return ()


def _site(bench: Bench, role: str) -> str:
    site = bench.model.role(role)
    return site.name if site is not None else ""


def _named(
    bench: Bench, goal: Goal, part: Part, sought: Found, asked: upstream.Upstream, notes: _Notes
) -> Cause:
    """Return the cause that a part stands for; scorers are told from what lies before them."""
    site = _site(bench, part.role)
    if part.code not in ("scorer_blind", "scorer_fires_elsewhere") or part.name.endswith("/sign"):
        return Cause(code=part.code, site=site, detail=part.said)
    if asked.code and part.role in ("query_relevance", ""):
        return Cause(code=asked.code, site=_site(bench, "query"), detail=asked.detail)
    if part.role in ("query_relevance", ""):
        before = _before_scorers(bench, goal, sought, notes)
        if before is not None:
            return before
    return _region_or_rest(bench, part, sought, notes)


def _before_scorers(bench: Bench, goal: Goal, sought: Found, notes: _Notes) -> Cause | None:
    if not _pictures_arrive(bench, notes):
        return Cause(code="preprocessing", detail="whatever is shown, the scorers see the same")
    trial = sought.trial
    if trial is None:
        return None
    values = bench.map(trial.view(sought.parts).run, "query_relevance")
    own = bench.map(bench.clean, "query_relevance")
    if values is not None and own is not None:
        written = float(mean_over(values, bench.case.cells.expand(len(values), -1)).mean())
        wanted = (written + float(mean_over(own, bench.case.cells[None])[0])) / 2
        other = of_embedding(bench, goal, wanted)
        notes.evidence += other.evidence
        if other.code:
            return Cause(code=other.code, site=_site(bench, "query"), detail=other.detail)
    inside = upstream.of_encoder(bench, goal)
    notes.evidence += inside.evidence
    notes.undecided += inside.undecided
    if inside.code:
        return Cause(code=inside.code, detail=inside.detail)
    return None


def _pictures_arrive(bench: Bench, notes: _Notes) -> bool:
    """Return whether any score of the case differs when another picture is shown."""
    if not bench.donors.scenes:
        return True
    other = bench.run_on([bench.donors.scenes[0].image], [bench.case.query])
    moved = [
        float((one - two).abs().max())
        for role in scorers(bench.model)
        if (one := bench.map(bench.clean, role)) is not None
        and (two := bench.map(other, role)) is not None
    ]
    arrives = not moved or max(moved) > 0
    effect = float(bench.tokens(other)[0]) - bench.before
    notes.evidence.append(
        Evidence(
            experiment="another picture shown: the scores "
            + ("change" if arrives else "stay the same to the last bit"),
            code="preprocessing", effect=effect, interval=(effect, effect),
            tokens=bench.before + effect, restores="no", basis="picture", part="picture arrives",
        )
    )  # fmt: skip
    return arrives


def _region_or_rest(bench: Bench, part: Part, sought: Found, notes: _Notes) -> Cause:
    """Tell a scorer that is silent in the region from one that fires elsewhere."""
    site, trial = _site(bench, part.role), sought.trial
    blind = Cause(code="scorer_blind", site=site, detail=part.said)
    if trial is None or part.name == "scorers":
        return replace(blind, code=part.code)
    inside, outside = trial.evidence([part], "region"), trial.evidence([part], "rest")
    notes.evidence += [inside, outside]
    sign = trial.shop.goal.sign
    if sign < 0:
        return blind  # it gets too much: nobody competes with it
    if inside.restores == "yes" or (
        outside.restores != "yes" and inside.effect * sign >= outside.effect * sign
    ):
        return blind
    if part.code == "scorer_fires_elsewhere":  # what was taken away is foreign to the scorer
        return Cause(code=part.code, site=site, detail=outside.experiment)
    for_nothing, why = fires_without_reason(bench, part.role)
    notes.evidence.append(why)
    if part.role != "query_relevance" or for_nothing:
        return Cause(code="scorer_fires_elsewhere", site=site, detail=outside.experiment)
    return Cause(
        code="budget_competition",
        detail="what competes is there in the picture and asked for by the query",
    )  # fmt: skip


def _ruled_out(
    evidence: Sequence[Evidence], named: set[str], parts: Sequence[Part]
) -> tuple[str, ...]:
    """Return the codes that were tried alone and whose experiments all failed to restore.

    What brings the tokens back together with another part is not ruled out by failing alone.
    """
    tried: dict[str, list[str]] = {}
    together = named | {part.code for part in parts}
    for one in evidence:
        if one.code and "+" not in one.code:
            tried.setdefault(one.code, []).append(one.restores)
    out = [
        code for code, results in tried.items()
        if code not in together and all(result == "no" for result in results)
    ]  # fmt: skip
    return tuple(sorted(out, key=list(STAGE_OF).index))


def _lacking(model: Model, notes: _Notes) -> None:
    """Say which experiments this model does not allow."""
    wanted = {
        "information": "putting information right", "salience": "putting salience right",
        "query_relevance": "putting query relevance right", "tensions": "moving tensions",
        "weights": "moving weights", "relevance": "telling mix from allocator",
        "demand": "telling the curve from what follows it",
        "multiplier": "telling direct from budget effects", "query": "telling query from scorer",
    }  # fmt: skip
    for role, what in wanted.items():
        site = model.role(role)
        if site is None:
            notes.missing.append(f"{what}: the model has no site with role {role!r}")
        elif not site.writable:
            notes.missing.append(f"{what}: site {site.name!r} cannot be written")
