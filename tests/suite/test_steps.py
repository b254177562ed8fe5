"""Claims about single patches and steps, on models whose reading is known."""

import pytest
import torch

from arrcoc_verify.faults.analytic import fault
from arrcoc_verify.lab import Lab, NotApplicable, scene_size
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes
from arrcoc_verify.suite.steps import (
    _answered,
    _away_from,
    information_tells_patches_apart,
    scores_stay_in_their_patch,
)


def lab_of(model):
    found = scenes("assert", grid=model.declaration.grid, size=scene_size(model), per_cluster=1)
    return Lab(model, found[:6])


@pytest.fixture(scope="module")
def sound():
    return lab_of(analytic.model())


def test_scores_of_the_sound_model_stay_in_their_patch(sound):
    found = scores_stay_in_their_patch(sound)
    assert float(found.values.max()) < 1e-9
    assert found.exercise["scores that answer"] == 12  # two scores of six scenes


def test_a_mean_over_three_by_three_patches_moves_neighbours_as_far_as_the_patch():
    found = scores_stay_in_their_patch(lab_of(fault("map-blurred:information@3").make()))
    assert found.numbers["information"] == pytest.approx(1.0, abs=0.02)
    assert found.numbers["query_relevance"] < 1e-9


def test_floored_information_is_the_same_in_many_patches_with_texture(sound):
    assert float(information_tells_patches_apart(sound).values.min()) > 0.99
    broken = lab_of(fault("map-floored:information").make())
    assert float(information_tells_patches_apart(broken).values.mean()) < 0.85


def test_a_first_step_may_be_far_larger_than_the_others():
    reads = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()[None]
    assert float(_answered(reads, torch.tensor([-14.0]))) == 1.0  # log of almost nothing
    assert float(_answered(reads, reads[:, 0])) == 0.75  # nothing is told from the least dose
    assert float(_answered(torch.tensor([[0.0, 0.0, 0.5, 1.0]]))) == pytest.approx(2 / 3)


def test_distance_counts_corners_as_sides():
    away = _away_from(torch.tensor([5, 0]), (4, 4)).reshape(2, 4, 4)
    assert away[0].tolist() == [[1, 1, 1, 2], [1, 0, 1, 2], [1, 1, 1, 2], [2, 2, 2, 2]]
    assert int(away[1, 3, 3]) == 3


def test_a_grid_without_distance_is_not_judged():
    class Small:
        grid = (2, 2)

    with pytest.raises(NotApplicable, match="no patch is far"):
        scores_stay_in_their_patch(Small())
