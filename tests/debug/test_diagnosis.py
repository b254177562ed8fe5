"""Planted failures come out by their cause, and what is none is said to be none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.debug.bench import Bench, donor_scenes, inner_sites, make_donors
from arrcoc_verify.debug.carried import carried
from arrcoc_verify.debug.case import Goal, make_case
from arrcoc_verify.debug.causes import MEANING, STAGE_OF
from arrcoc_verify.debug.competition import rivals_of
from arrcoc_verify.debug.diagnosis import debug, no_donors
from arrcoc_verify.debug.failure import is_failure
from arrcoc_verify.debug.operators import OPERATORS, PAIRS, framed
from arrcoc_verify.debug.parts import Workshop
from arrcoc_verify.debug.planted import diagnose, plant
from arrcoc_verify.debug.purity import purified
from arrcoc_verify.debug.rewrite import with_write
from arrcoc_verify.debug.upstream import wordings_of
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.verdict import STAGES
from tests.adapters import strangers

ONE_A_CAUSE = (
    "upside-down", "query-severed", "encoder-blind-here", "asked-blind-here", "salience-framed",
    "asked-weighs-a-tenth", "relevance-dim-here", "demand-dim-here", "multiplier-a-third",
    "dropped-at-random", "asked-for-everywhere",
)  # fmt: skip


@pytest.mark.parametrize("name", ONE_A_CAUSE)
def test_a_planted_cause_is_the_only_one_named(sound, name):
    (planted,) = plant(sound, names=[name])

    assert list(planted.codes) == [cause.code for cause in diagnose(planted).found.causes]


@pytest.fixture(scope="module")
def planted_in_trained():
    names = [name for name, _ in CONFUSABLE]
    return {one.name: one for one in plant(load("reference:trained"), names=names)}


CONFUSABLE = (
    ("query-cut-to-two-words", "query_mismatch"),  # the balancer hears the query, too
    ("asked-rolled", "scorer_blind"),  # another query's object lands on the region
    ("asked-level", "scorer_blind"),  # what is handed out is just not enough
    ("information-framed", "scorer_fires_elsewhere"),  # relevance of the query would drown it
    ("relevance-blurred", "mix_departs_from_scores"),  # another wording just makes up for it
)


@pytest.mark.parametrize(("name", "code"), CONFUSABLE)
def test_what_would_make_up_for_a_fault_is_not_named_for_it(planted_in_trained, name, code):
    found = diagnose(planted_in_trained[name]).found

    assert [code] == [cause.code for cause in found.causes]


def test_failures_are_planted_only_where_the_sound_model_is_right(sound, cases, donors):
    wrong = [c for c in cases if is_failure(Bench(sound, c, donors), None).answer == "yes"]
    assert wrong
    planted = list(plant(sound, names=["asked-*"], donors=donors))
    assert not {case.query for case in wrong} & {one.case.query for one in planted if one.case}


def test_a_pattern_that_place_adds_is_taken_away_and_no_more(sound, cases, donors):
    case = cases[0]
    broken = framed("salience", 4.0)(sound, case)
    ran = carried(broken, donors.run, inner_sites(broken))
    bench = Bench(broken, case, replace(donors, ran=ran))
    shop = Workshop(bench=bench, goal=Goal(tokens=300), keep=np.zeros(len(donors.scenes), bool))
    pure = purified(shop, "salience").restored(bench, shop.case_view()).run
    whole = Bench(sound, case, donors)
    true, bad, made = (
        one.map(run, "salience")[0] for one, run in
        ((whole, whole.clean), (bench, bench.clean), (bench, pure))
    )  # fmt: skip
    frame = (bad - true).abs() > 1e-6

    assert (bad - true)[frame].min() > 2
    assert (made - true)[frame].abs().mean() < 0.1 * (bad - true)[frame].mean()
    assert (made - true)[~frame].abs().mean() < 0.1


@pytest.mark.parametrize(
    "name", ["asked-blind-here+demand-dim-here", "asked-dim-here+relevance-dim-here"]
)
def test_two_planted_causes_are_both_named(sound, name):
    (planted,) = plant(sound, names=[name])
    found = diagnose(planted).found

    assert list(planted.codes) == [cause.code for cause in found.causes]
    singles = [e for e in found.evidence if e.basis == "donors" and "+" not in e.part]
    assert singles
    assert all(one.restores != "yes" for one in singles)


def test_a_named_cause_restores_alone_and_what_is_ruled_out_does_not(sound):
    (planted,) = plant(sound, names=["demand-dim-here"])
    found = diagnose(planted).found
    restoring = {one.code for one in found.evidence if one.restores == "yes"}

    assert {"allocator_curve"} == restoring
    assert restoring.isdisjoint(found.ruled_out)
    assert {"scorer_blind", "suppressed_by_balancing", "allocator_multiplier"} <= set(
        found.ruled_out
    )


def test_every_code_has_a_stage_a_meaning_and_a_planted_failure():
    assert set(STAGE_OF) == set(MEANING)
    assert set(STAGE_OF.values()) <= set(STAGES)
    assert set(STAGE_OF) == {one.code for one in OPERATORS}
    assert 30 <= len(OPERATORS) + len(PAIRS)


def test_what_keeps_its_goal_is_no_failure(sound, cases, donors):
    found = debug(sound, cases[0], Goal(tokens=65), donors=donors)

    assert "no" == found.failure.answer
    assert () == found.causes
    assert ("it is no failure, so no cause was looked for",) == found.undecided


def test_a_sound_region_is_no_failure_against_donors(sound, cases, donors):
    best = max(cases, key=lambda case: Bench(sound, case, donors).before)
    found = debug(sound, best, donors=donors)

    assert "no" == found.failure.answer
    assert found.failure.p_value > 0.1


def test_a_region_that_nobody_asks_for_is_a_failure_against_donors(sound, cases, donors):
    corner = replace(cases[0], cells=~cases[0].cells & (torch.arange(256) % 16 > 12))
    found = debug(sound, corner, donors=donors)

    assert "yes" == found.failure.answer
    assert found.failure.n == 12
    assert found.failure.p_value == pytest.approx(1 / 13)


def test_without_donors_or_expectation_it_is_undecided(sound, cases):
    found = debug(sound, cases[0], donors=no_donors())

    assert "undecided" == found.failure.answer
    assert "0 independent donors" in found.failure.reason
    assert "--expect" in found.failure.reason


def test_without_donors_contracts_still_find_the_cause(sound):
    (planted,) = plant(sound, names=["tension-down"])
    found = debug(planted.model, planted.case, planted.goal, donors=no_donors())

    assert "suppressed_by_balancing" == found.causes[0].code


def test_too_many_tokens_can_be_debugged_too(sound, cases, donors):
    case = cases[0]
    before = Bench(sound, case, donors).before
    loud = with_write(sound, "attending.demand", lambda d: torch.where(~case.cells, d * 20, d))
    rest = replace(case, cells=~case.cells)
    found = debug(loud, rest, Goal(tokens=Bench(sound, rest, donors).before + 1, sign=-1))

    assert before > 0
    assert "yes" == found.failure.answer
    assert "attending" == found.stage


def test_too_many_tokens_are_not_laid_to_competitors(sound, cases, donors):
    found = debug(sound, cases[0], Goal(tokens=100, sign=-1), donors=donors)

    assert "yes" == found.failure.answer
    assert "budget_competition" not in {cause.code for cause in found.causes}


def test_what_mends_together_with_another_is_not_ruled_out(sound):
    (planted,) = plant(sound, names=["query-severed"])
    found = diagnose(planted).found
    shown = [one for one in found.evidence if one.code == "query_mismatch"]

    assert ["query_mismatch"] == [cause.code for cause in found.causes]
    assert any(one.restores == "yes" for one in shown)
    assert not {part.code for part in found.parts} & set(found.ruled_out)


def test_runs_that_agree_are_evidence_too(sound):
    (planted,) = plant(sound, names=["tension-down"])
    found = diagnose(planted).found

    tried = {one.code for one in found.evidence}

    assert {"not_deterministic", "batch_dependent"} <= set(found.ruled_out) & tried
    assert ("budget_competition" in tried) == bool(rivals_of(found.bench).any())


def test_each_tension_is_moved_to_both_its_ends(sound, cases, donors):
    case = cases[0]
    found = debug(sound, case, Goal(tokens=65), donors=donors)
    (focus,) = [row for row in found.levers if row["tension"] == "focus"]
    bench = Bench(sound, case, donors)
    held = bench.vector(bench.clean, "tensions").clone()
    held[:, 2] = 1.0
    wanted = bench.tokens(bench.after([bench.write_vector("tensions", held)], bench.clean))

    assert ["compress", "exploit", "focus"] == [row["tension"] for row in found.levers]
    assert float(wanted[0]) == focus["high"]
    assert focus["low"] != focus["high"]


def test_the_json_is_plain_and_says_what_was_asked(sound):
    (planted,) = plant(sound, names=["asked-weighs-a-tenth"])
    data = json.loads(json.dumps(diagnose(planted).found.to_json()))

    assert {"failure", "stage", "cause", "evidence", "ruled_out", "undecided"} <= set(data)
    assert ("yes", "balancing", "suppressed_by_balancing") == (
        data["failure"], data["stage"], data["cause"],
    )  # fmt: skip
    assert all({"experiment", "effect", "interval"} <= set(one) for one in data["evidence"])
    assert all(one["interval"][0] <= one["interval"][1] for one in data["evidence"])


def test_the_same_seed_gives_the_same_diagnosis(sound):
    (planted,) = plant(sound, names=["asked-dim-here"])
    one, two = diagnose(planted, 3).found, diagnose(planted, 3).found

    assert one.to_json() == two.to_json()


@pytest.mark.parametrize("make", [strangers.tile_router, strangers.vit_pruner,
                                  strangers.other_outputs, strangers.functions_only])  # fmt: skip
def test_models_of_other_forms_say_what_could_not_be_run(make):
    model = make()
    size = max(model.declaration.image_size)
    scene = scenes("assert", grid=model.declaration.grid, size=size, per_cluster=1)[0]
    case = make_case(model, scene.image, scene.query, scene.target)
    found = debug(model, case, Goal(tokens=1e6), donors=make_donors(model, donor_scenes(model)))

    assert "yes" == found.failure.answer
    assert () == found.causes
    assert any("has no site with role" in text for text in found.not_run)


def test_wordings_keep_the_words_that_say_what():
    made = wordings_of("look closely at the blue pencil")

    assert "blue pencil" == made[0]
    assert all("pencil" in text or "writing tool" in text for text in made)
    assert "look closely at the blue pencil" not in made
