"""Names of what patches show, against scenes whose objects are known."""

import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.dictionary import naming
from arrcoc_verify.lab import Lab
from arrcoc_verify.scenes import scenes


@pytest.fixture(scope="module")
def seen():
    """Scenes of four roles, and how near their patches are to each name."""
    found = [one for role in ("train", "select", "donor", "assert")
             for one in scenes(role, grid=(16, 16), size=320, per_cluster=1)]  # fmt: skip
    lab = Lab(load("reference:analytic"), found)
    return lab, naming.nearness([scene.image for scene in lab.scenes])


def test_objects_are_named_far_more_often_than_by_chance(seen):
    lab, near = seen
    hits = []
    for index, scene in enumerate(lab.scenes):
        fires = torch.zeros(lab.target.shape)
        fires[index] = lab.target[index].float()
        name = naming.name_of(near, naming.on_grid(lab, fires))
        label = scene.target.label.split(" ", 1)[1]
        hits.append(name is not None and label in name.texts)

    assert 30 < len(hits)
    assert 10 <= sum(hits)  # by chance 3 of 51 names: 2.2 expected, 10 or more in 1 of 50,000


def test_random_patches_get_a_name_as_often_as_the_level_says(seen):
    _, near = seen
    generator = torch.Generator().manual_seed(1)
    named = 0
    for seed in range(100):
        fires = torch.zeros(near.shape[:2])
        fires.view(-1)[torch.randperm(fires.numel(), generator=generator)[:8]] = 1
        named += naming.name_of(near, fires, seed=seed) is not None

    assert named <= 13  # 5 expected; more in 1 of 1,000


def test_a_latent_that_never_fires_has_no_name(seen):
    _, near = seen
    assert naming.name_of(near, torch.zeros(near.shape[:2])) is None


def test_weights_on_another_grid_land_in_the_same_place():
    lab = Lab(load("reference:analytic"), scenes("train", grid=(16, 16), per_cluster=1)[:1])
    fires = torch.zeros(1, 256)
    fires[0, 17] = 2.0
    assert naming.on_grid(lab, fires).equal(fires.double())

    lab.__dict__["grid"] = (8, 8)
    coarse = torch.zeros(1, 64)
    coarse[0, 9] = 2.0  # row 1, column 1 of 8: rows and columns 2 and 3 of 16
    fine = naming.on_grid(lab, coarse).reshape(16, 16)
    assert [2.0] * 4 == fine[2:4, 2:4].flatten().tolist()
    assert 8.0 == float(fine.sum())
