"""Readings into decisions: known answers, and nothing that is not a number ever holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.claim import Claim, Contract, Distances, Effects, Level, _noise, judge
from arrcoc_verify.errors import BadConfig, UnknownName, UsageError
from arrcoc_verify.stats.conclude import conclude
from arrcoc_verify.verdict import Outcome

CLUSTERS = [f"c{i // 2}" for i in range(40)]


def claim(**changed):
    given_ = {
        "id": "knowing.test", "sentence": "s", "stage": "knowing", "kind": "causes",
        "operation": "o", "source": "s", "measure": lambda lab: None, "margin": 1.0,
    }  # fmt: skip
    return Claim(**given_ | changed)


def outcome(measured, **changed):
    judged = judge(claim(**changed), measured, CLUSTERS, Level(family=1))
    return conclude([judged.decision], 0.01)[0].outcome, judged


def spread(mean, sd=0.2):
    return mean + sd * np.random.default_rng(0).standard_normal(40)


def test_an_effect_above_its_margin_holds_and_one_below_is_refuted():
    assert outcome(Effects(values=spread(3.0)))[0] is Outcome.HOLDS
    assert outcome(Effects(values=spread(0.0)))[0] is Outcome.REFUTED
    assert outcome(Effects(values=spread(1.0)))[0] is Outcome.INCONCLUSIVE


def test_scenes_are_averaged_inside_their_cluster_before_anything_else():
    values = np.tile([0.0, 4.0], 20)

    judged = outcome(Effects(values=values))[1]

    assert 20 == judged.decision.n
    np.testing.assert_array_equal(np.full(20, 2.0), judged.per_cluster)


def test_what_placebos_do_is_taken_off():
    assert outcome(Effects(values=spread(3.0), placebos=spread(3.0)))[0] is Outcome.REFUTED


def test_a_distance_inside_its_margin_holds_and_one_outside_is_refuted():
    assert outcome(Distances(values=spread(0.2, 0.01)), kind="no_effect")[0] is Outcome.HOLDS
    assert outcome(Distances(values=spread(2.0, 0.01)), kind="no_effect")[0] is Outcome.REFUTED


def test_signed_changes_that_cancel_do_not_pass_as_no_effect():
    values = np.abs(np.tile([-3.0, 3.0], 20))

    assert outcome(Distances(values=values), kind="no_effect")[0] is Outcome.REFUTED


def test_a_contract_holds_only_without_counterexample_and_with_its_cases_met():
    none = np.zeros(40)
    one = none.copy()
    one[7] = 1

    assert outcome(Contract(broken=none, cases=40), margin=None)[0] is Outcome.HOLDS
    assert outcome(Contract(broken=one, cases=40), margin=None)[0] is Outcome.REFUTED
    unmet = Contract(broken=none, cases=40, exercise={"ties": 0})
    assert outcome(unmet, margin=None)[0] is Outcome.INCONCLUSIVE
    assert outcome(Contract(broken=none, cases=0), margin=None)[0] is Outcome.NOT_RUN


def test_an_effect_whose_cases_were_not_met_is_inconclusive_whatever_it_reads():
    measured = Effects(values=spread(9.0), exercise={"pairs that differ": 0})

    assert outcome(measured)[0] is Outcome.INCONCLUSIVE


@given(st.integers(0, 39), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_reading_that_is_no_number_never_holds(index, bad):
    values = spread(9.0)
    values[index] = bad
    small = spread(0.1, 0.001)
    small[index] = bad

    assert outcome(Effects(values=values))[0] is Outcome.INVALID
    assert outcome(Distances(values=small), kind="no_effect")[0] is Outcome.INVALID
    broken = np.zeros(40)
    broken[index] = bad
    assert outcome(Contract(broken=broken, cases=40), margin=None)[0] is not Outcome.HOLDS


def test_fewer_than_eight_clusters_decide_nothing():
    judged = judge(claim(), Effects(values=[5.0] * 4), list("abab"), Level())

    assert conclude([judged.decision], 0.01)[0].outcome is Outcome.INCONCLUSIVE


def test_a_spike_that_reads_nothing_is_never_detected():
    blind = Effects(values=spread(0.0), spiked=np.zeros(40))
    seeing = Effects(values=spread(0.0), spiked=np.ones(40))

    assert outcome(blind)[1].detected < 0.05
    assert outcome(seeing)[1].detected > 0.95


def test_a_distance_that_does_not_see_a_change_of_the_margins_size_is_blind():
    blind = Distances(values=spread(0.1, 0.01), spiked=np.full(40, 0.5))

    assert 0.0 == outcome(blind, kind="no_effect")[1].detected


def test_unknown_words_and_impossible_margins_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'knowing'"):
        claim(stage="knowin")
    with pytest.raises(UnknownName, match="kind of claim"):
        claim(kind="cause-ish")
    with pytest.raises(BadConfig, match="a margin is a number >= 0"):
        claim(margin=float("nan"))
    with pytest.raises(BadConfig, match="a margin is a number >= 0"):
        claim(margin=-0.1)
    assert claim(margin=0).required
    assert claim().spike_scale == 1.0


def test_a_family_shares_its_level_evenly():
    level = Level()
    assert (level.alpha, level.confidence, level.family, level.seed) == (0.01, 0.99, 1, 0)
    assert [Level(family=n).each for n in (0, 1, 2, 50)] == [0.01, 0.01, 0.005, 0.01 / 50]
    assert outcome(Effects(values=spread(3.0)))[1].decision.effect.level == 0.99


def test_readings_of_other_scenes_are_refused():
    for measured in (Effects(values=[1.0] * 39), Contract(broken=np.zeros(41), cases=41)):
        with pytest.raises(UsageError, match="one reading for each of 40 scenes"):
            judge(claim(), measured, CLUSTERS, Level())


def test_a_scene_far_off_does_not_hide_behind_its_neighbour():
    judged = outcome(Distances(values=np.tile([0.0, 4.0], 20)), kind="no_effect")[1]
    np.testing.assert_allclose(judged.per_cluster, np.full(20, np.sqrt(8.0)))


def test_a_rule_broken_twice_in_one_case_is_broken_once_in_one():
    broken = np.zeros(40)
    broken[3] = 2
    decision = outcome(Contract(broken=broken, cases=1), margin=None)[1].decision
    assert decision.reason == "1 of 1 cases break the rule"


def test_effects_without_a_margin_are_held_against_nothing():
    values = spread(0.5)
    judged = outcome(Effects(values=values), margin=None)[1]
    np.testing.assert_allclose(judged.decision.excess, values.reshape(20, 2).mean(axis=1))
    assert judged.detected is None


def test_one_case_is_enough_exercise_and_what_is_invalid_stays_so():
    met = Effects(values=spread(9.0), exercise={"pairs that differ": 1})
    assert outcome(met)[0] is Outcome.HOLDS
    lost = Effects(values=np.full(40, np.nan), exercise={"pairs that differ": 0})
    assert outcome(lost)[0] is Outcome.INVALID


def test_noise_is_that_of_placebos_or_of_effects_shrunk_to_the_margin():
    effects = np.array([3.0, 5.0])
    np.testing.assert_array_equal(_noise(effects, np.array([0.0, 1.0]), 1.0), [0.0, 1.0])
    np.testing.assert_array_equal(_noise(effects, None, 1.0), [0.75, 1.25])
    np.testing.assert_array_equal(_noise(-effects, None, 1.0), [-0.75, -1.25])
    np.testing.assert_array_equal(_noise(effects / 8, None, 0.25), effects / 16)
    for as_it_is in (effects / 8, np.array([-1.0, 1.0]), np.array([1.0, np.inf])):
        np.testing.assert_array_equal(_noise(as_it_is, None, 1.0), as_it_is)


def test_two_clusters_have_a_spread_to_look_into_and_one_has_not():
    def detected(clusters):
        return judge(claim(), Effects(values=[5.0, 5.5]), clusters, Level()).detected

    assert detected(["a", "b"]) is not None
    assert detected(["a", "a"]) is None


def test_a_spike_is_scaled_to_the_margin_it_stands_for():
    half = {"values": spread(0.0), "spiked": np.full(40, 0.5)}
    assert outcome(Effects(**half), spike_scale=2.0)[1].detected > 0.95
    assert outcome(Effects(**half), spike_scale=0.02)[1].detected < 0.05
    unspiked = [outcome(Effects(values=spread(0.0)), spike_scale=k)[1].detected for k in (1, 0.02)]
    assert unspiked[0] == unspiked[1] > 0.95
    assert outcome(Effects(values=spread(0.0), spiked=np.full(40, np.nan)))[1].detected == 0.0


def test_nine_tenths_of_the_margin_must_be_read_of_a_distance():
    def detected(spiked, **more):
        measured = Distances(values=spread(0.1, 0.01), spiked=spiked)
        return outcome(measured, kind="no_effect", margin=10.0, **more)[1].detected

    assert [detected(np.full(40, size)) for size in (8.99, 9.0, 11.0)] == [0.0, 1.0, 1.0]
    assert detected(np.full(40, 3.0), spike_scale=3.0) == 1.0
    assert detected(None) is None
