"""The selftest: what counts as detected, who is named, what is kept, and a small slice for real."""

import json
from dataclasses import replace

import pytest

from arrcoc_verify import suite
from arrcoc_verify.errors import RecordError
from arrcoc_verify.faults.fault import Fault
from arrcoc_verify.faults.selftest import case, kept, running, score
from arrcoc_verify.faults.selftest.case import ANALYTIC, Judged, Tried
from arrcoc_verify.faults.selftest.running import Plan, Results
from arrcoc_verify.reference import analytic
from arrcoc_verify.stats import calibration


def fault(name, stage="knowing", **more):
    return Fault(name=name, stage=stage, sentence="s", make=analytic.model, **more)


def tried(name, letters="hh", gates=(), crashed=(), stage=""):
    return Tried(
        name=name, seed=0, letters=dict(zip("ab", letters, strict=True)), gates=gates,
        crashed=crashed, suspect={"stage": stage} if stage else {},
    )  # fmt: skip


def judged(name, killable=True, twin=""):
    return Judged(name=name, killable=killable, why="moves", crashed=False, twin=twin)


def results(faulty, healthy=(), equal=(), baseline="hh", audited="hh"):
    names = {one.name for one in faulty}
    return Results(
        baseline=tried("sound", baseline), audited=tried("sound", audited),
        faulty=tuple(faulty), healthy=tuple(healthy),
        judged={name: judged(name, name not in equal) for name in names},
    )  # fmt: skip


def scored(faulty, faults=None, **more):
    known = faults or {one.name: fault(one.name) for one in faulty}
    return score.score(results(faulty, **more), known)


def test_refuted_claims_and_gates_that_were_read_detect_and_crashes_do_not():
    found = scored([
        tried("x:1", "Rh"), tried("x:2", gates=("g",)), tried("x:3", "ee", crashed=("g",)),
        tried("x:4", "GG", crashed=("g",)), tried("x:5", "ih"),
    ])  # fmt: skip
    assert (2, 5) == (found["detection"]["killed"], found["detection"]["killable"])
    assert ["x:3", "x:4", "x:5"] == [one["name"] for one in found["survivors"]]
    assert "crashed" in found["survivors"][0]["reason"]
    assert "undecided" in found["survivors"][2]["reason"]


def test_a_fault_under_which_every_claim_holds_is_false_comfort_and_a_doubt_is_none():
    found = scored([
        tried("x:1", "hh"), tried("x:2", "ih"), tried("x:3", "Rh"), tried("x:4", gates=("g",)),
        tried("x:5", crashed=("g",)),
    ])["false_comfort"]["all"]  # fmt: skip
    assert (1, 5, ["x:1"]) == (found["passed"], found["killable"], found["faults"])


def test_operators_weigh_the_same_however_many_faults_they_have():
    found = scored([tried("many:1"), tried("many:2"), tried("many:3"), tried("one:1", "Rh")])
    assert found["detection"]["macro"] == pytest.approx(0.5)
    assert found["detection"]["micro"] == pytest.approx(0.25)
    low, high = found["detection"]["interval"]
    assert low == pytest.approx(0.0063, abs=1e-4)  # Clopper-Pearson of 1 in 4
    assert high == pytest.approx(0.8059, abs=1e-4)


def test_equivalents_are_in_no_denominator_and_are_listed_with_their_proof():
    known = {"a:1": fault("a:1"), "b:1": fault("b:1", equivalent="it is a copy")}
    found = scored([tried("a:1", "Rh"), tried("b:1")], known)
    assert 1 == found["detection"]["killable"]
    assert [{"name": "b:1", "proof": "it is a copy"}] == found["equivalents"]
    assert [] == found["survivors"]


def test_a_fault_counts_as_detected_only_if_every_draw_of_scenes_shows_it():
    found = scored([tried("a:1", "Rh"), replace(tried("a:1"), seed=1)])
    assert (0, 1) == (found["detection"]["killed"], found["detection"]["killable"])


def test_any_owner_of_a_fault_is_a_right_stage_and_another_is_not():
    known = {
        "a:1": fault("a:1", "runtime", also=("balancing",)),
        "b:1": fault("b:1", "query"), "c:1": fault("c:1", "query"),
    }  # fmt: skip
    found = scored(
        [tried("a:1", "Rh", stage="balancing"), tried("b:1", "Rh", stage="knowing"),
         tried("c:1", "Rh")], known,
    )  # fmt: skip
    assert (1, 3) == (found["localisation"]["right"], found["localisation"]["detected"])
    assert {"knowing": 1, "none": 1} == found["localisation"]["confusion"]["query"]
    assert {"b:1": "knowing", "c:1": "none"} == {
        one["name"]: one["named"] for one in found["misplaced"]
    }


def test_every_red_letter_of_a_healthy_run_is_a_false_alarm_even_a_crash():
    healthy = [tried("h/1"), tried("h/2", "Rh"), tried("h/3", "he"), tried("h/4", crashed=("g",))]
    found = scored([tried("a:1", "Rh")], healthy=healthy)["false_alarms"]
    assert (4, 3) == (found["runs"], found["alarmed"])
    assert {"a": 1, "b": 1, "g": 1} == found["by_check"]


@pytest.mark.parametrize("where", ["baseline", "audited"])
def test_what_the_sound_model_itself_does_not_hold_is_neither_detection_nor_alarm(where):
    found = scored([tried("a:1", "Rh")], healthy=[tried("h/1", "Rh")], **{where: "Rh"})
    assert 0 == found["detection"]["killed"]
    assert 0 == found["false_alarms"]["alarmed"]
    assert ["a"] == found["expected_alarms"]


def test_checks_that_never_fire_and_doses_that_are_too_small_are_said():
    known = {f"n:x@{d}": fault(f"n:x@{d}", strength=float(d)) for d in (1, 2)}
    found = scored([tried("n:x@1"), tried("n:x@2", "Rh")], known)
    assert ["b"] == found["silent_checks"]
    assert {"n:x": {"1": False, "2": True}} == found["strengths"]


def test_the_page_shows_the_rates_that_were_kept_and_says_when_the_code_has_changed(
    tmp_path, monkeypatch
):
    data = {"digest": "d", "date": "2030-01-01", **scored([tried("a:1", "Rh", stage="knowing")],
                                                          healthy=[tried("h/1")])}  # fmt: skip
    (tmp_path / "selftest.json").write_text(json.dumps(data))
    monkeypatch.setattr(kept, "path", lambda name=kept.FILE: tmp_path / name)
    monkeypatch.setattr(kept, "digest", lambda: "d")
    rates = kept.for_the_page()["rates"]
    assert [(1.0, 1), (1.0, 1), (0.0, 1), (0.0, 1)] == [(o["share"], o["n"]) for o in rates]
    monkeypatch.setattr(kept, "digest", lambda: "another")
    assert all("other version" in one["name"] for one in kept.for_the_page()["rates"])
    (tmp_path / kept.TRAINED).write_text(json.dumps(data))
    assert [f"trained: {name}" for name in (
        "planted faults detected (other version)", "of these, right stage named (other version)",
    )] == [one["name"] for one in kept.for_the_page()["rates"][4:]]  # fmt: skip
    (tmp_path / "selftest.json").unlink()
    assert kept.for_the_page() is None


def simulated(shape, n, value, what="auto", nominal=0.95):
    rate = {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 400}
    return {"what": what, "shape": shape, "n": n, "nominal": nominal, "rate": rate}


def test_the_page_shows_the_worst_simulated_figures_and_says_when_the_code_has_changed():
    data = {
        "digest": calibration.digest(),
        "tables": {
            "Coverage of intervals of the mean": [
                simulated("normal", 8, 0.94), simulated("skewed", 16, 0.91),
                simulated("skewed", 8, 0.80, what="t"), simulated("lognormal", 8, 0.85),
            ],
            "Families on their margins: runs with any wrong verdict": [
                simulated("normal", 16, 0.01, "causes: any holds wrongly", 0.05),
                simulated("skewed", 32, 0.04, "no effect: any holds wrongly", 0.05),
            ],
        },
    }  # fmt: skip
    cover, err = kept.calibration_rates(data)
    assert ("intervals cover, skewed, n 16, meant 0.95", 0.91) == (cover["name"], cover["share"])
    assert ("any wrong verdict, skewed, n 32, meant 0.05", 0.04) == (err["name"], err["share"])
    assert all(
        "(other version)" in one["name"] and len(one["name"]) <= 60
        for one in kept.calibration_rates({**data, "digest": "another"})
    )
    assert [] == kept.calibration_rates({})


SLICE = (
    "balancing.focus-favours-its-scorer", "balancing.reported-*-are-applied",
    "attending.total-is-conserved", "attending.equal-relevance-equal-tokens",
)  # fmt: skip
FAULTS = ("tokens-one-more:tokens", "report-exchanged:weights", "harmless-copy:relevance")


def test_a_slice_finds_planted_faults_names_their_stage_and_goes_on_where_it_was(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(case.suite, "CLAIMS", tuple(suite.select(SLICE)))
    plan = Plan(spec=ANALYTIC, faults=FAULTS, seeds=(0,), healthy=1, jobs=1, folder=tmp_path)
    done = []
    found = score.score(running.run(plan, lambda *told: done.append(told)), case.faults(ANALYTIC))
    assert (2, 2) == (found["detection"]["all"]["killed"], found["detection"]["all"]["killable"])
    assert 2 == found["localisation"]["all"]["right"]
    assert 0 == found["false_alarms"]["alarmed"]
    assert ["harmless-copy:relevance"] == [one["name"] for one in found["equivalents"]]
    assert done[-1][1:] == (7, 7)

    monkeypatch.setattr(case, "tried", lambda *_: pytest.fail("tried again"))
    again = score.score(running.run(plan, lambda *_: None), case.faults(ANALYTIC))
    assert found == again

    monkeypatch.setattr(running.kept, "digest", lambda: "of other code")
    with pytest.raises(RecordError, match="other code"):
        running.run(plan, lambda *_: None)
