"""Planted faults are what they say: wrong in a step or two, and declared as the sound model is."""

from collections import Counter

import pytest
import torch

from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.faults.analytic import FAULTS, fault
from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.faults.healthy import VARIANTS
from arrcoc_verify.reference import analytic


def test_names_are_unique_among_faults_and_healthy_variants():
    names = Counter([one.name for one in FAULTS] + [one.name for one in VARIANTS])
    assert [] == [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("one", FAULTS, ids=lambda one: one.name)
def test_a_fault_declares_what_its_sound_model_declares(one):
    broken, sound = one.make(), one.sound()
    assert sound.declaration == broken.declaration
    assert sound.profile == broken.profile
    assert sound.sites == broken.sites


@pytest.mark.parametrize("one", FAULTS, ids=lambda one: one.name)
def test_a_fault_changes_some_steps_and_leaves_the_others(one):
    broken, sound = one.make(), one.sound()
    changed = [step.name for step in broken.steps if step not in sound.steps]
    assert 1 <= len(changed) <= 2
    assert {step.name for step in sound.steps} == {step.name for step in broken.steps}


def test_each_making_of_a_fault_remembers_nothing_of_the_last():
    one = fault("query-cache-key-cut")
    first = next(step for step in one.make().steps if step.name == "query")
    again = next(step for step in one.make().steps if step.name == "query")
    first.run(["where is the purple fish?"])
    expected = analytic.embed_queries(["where is the green cup?"])
    assert torch.equal(expected, again.run(["where is the green cup?"]))


def test_a_step_that_reads_a_later_one_is_moved_behind_it():
    model = rewired(after("information", lambda score, blocks: score, "descriptor"))
    names = [step.name for step in model.steps]
    assert names.index("descriptor") < names.index("information") < names.index("context")


def test_what_comes_after_a_step_gets_its_result_and_the_extra_inputs():
    step = after("mix", lambda mixed, weight: mixed + weight.sum(), "weights")
    features = torch.zeros(1, 2, 48, dtype=torch.float64)
    assert torch.equal(
        torch.full((1, 2), 3.0, dtype=torch.float64), step.run(features, torch.ones(1, 3))
    )
    assert ("balancing_features", "weights") == step.inputs


def test_unknown_steps_and_circles_are_refused():
    with pytest.raises(UnknownName, match="salience"):
        instead("saliense", torch.zeros_like)
    with pytest.raises(BadModel, match="circle"):
        rewired(instead("texture", torch.zeros_like, "tokens"))


def test_a_fault_needs_a_stage_that_exists():
    with pytest.raises(UnknownName, match="knowing"):
        Fault(name="x", stage="knowin", sentence="x", make=analytic.model)


def test_an_unknown_fault_is_refused_and_the_nearest_named():
    with pytest.raises(UnknownName, match="query-severed"):
        fault("query-sevred")


def test_faults_of_one_operator_are_siblings():
    assert "tension-flipped" == fault("tension-flipped:focus").operator
    assert "query-severed" == fault("query-severed").operator
