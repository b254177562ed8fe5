"""Healthy variants differ in what must not matter, and in nothing else."""

import pytest
import torch

from arrcoc_verify.faults.analytic import fault
from arrcoc_verify.faults.bench import SharedLab, Shelf, sources_of_difference
from arrcoc_verify.faults.healthy import VARIANTS
from arrcoc_verify.graph import run
from arrcoc_verify.lab import Lab
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes


@pytest.fixture(scope="module")
def few():
    return scenes("select", per_cluster=1)[:3]


@pytest.mark.parametrize("one", [v for v in VARIANTS if not v.seed], ids=lambda one: one.name)
def test_a_healthy_variant_allocates_as_the_sound_model(one, few):
    images, queries = [s.image for s in few], [s.query for s in few]
    expected = run(analytic.model(), images, queries).allocation
    actual = run(one.make(), images, queries).allocation
    torch.testing.assert_close(actual.relevance, expected.relevance, rtol=0, atol=1e-5)
    assert float((expected.tokens - actual.tokens).abs().max()) <= 1


@pytest.mark.parametrize(
    "name",
    ["tension-flipped:focus", "mix-around-maps", "query-severed", "score-flipped:salience",
     "score-leak:query_relevance-into-information", "channels-swapped"],
)  # fmt: skip
def test_shared_early_steps_change_no_bit(name, few):
    model = fault(name).make()
    shared = SharedLab(model, few, shelf=Shelf())
    for read in (lambda lab: lab.clean, lambda lab: lab.edited("salience", 1.0)):
        expected, actual = read(Lab(model, few)).allocation, read(shared).allocation
        assert torch.equal(expected.relevance, actual.relevance)
        assert torch.equal(expected.tokens, actual.tokens)


def test_a_model_is_computed_anew_from_what_its_changed_steps_read():
    sound = analytic.model()
    assert sources_of_difference(sound, sound) == frozenset()
    assert sources_of_difference(fault("score-flipped:salience").make(), sound) == {
        "salience_features"
    }
    assert sources_of_difference(fault("channels-swapped").make(), sound) == {"images"}


def test_a_shelf_serves_one_edit_to_the_labs_of_all_models(few):
    shelf = Shelf()
    one = SharedLab(analytic.model(), few, shelf=shelf)
    two = SharedLab(fault("query-severed").make(), few, shelf=shelf)
    assert one.edited_scenes("salience", 1.0) is two.edited_scenes("salience", 1.0)
    assert one.edited_scenes("salience", 0.0) is not two.edited_scenes("salience", 1.0)


def test_a_fault_that_writes_in_place_spoils_no_other_model(few):
    shelf = Shelf()
    expected = SharedLab(fault("relevance-blurred").make(), few, shelf=shelf).clean.allocation
    spoiling = SharedLab(fault("written-in-place").make(), few, shelf=shelf)
    assert spoiling.clean is spoiling.clean
    after = SharedLab(fault("relevance-blurred").make(), few, shelf=shelf).clean.allocation
    assert torch.equal(expected.relevance, after.relevance)
