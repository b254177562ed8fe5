"""Readings into decisions: known answers, and nothing that is not a number ever holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.claim import Claim, Contract, Distances, Effects, Level, judge
from arrcoc_verify.errors import BadConfig, UnknownName
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
