import pytest
import torch

from arrcoc_verify.faults.selftest import case
from arrcoc_verify.lab import Lab, scene_size
from arrcoc_verify.locating.entrance import _arrival, entrance_suspected
from arrcoc_verify.scenes import scenes

COLOUR = ("knowing.salience-sees-colour",)


def lab_of(model):
    size = scene_size(model)
    found = scenes("select", grid=model.declaration.grid, size=size, per_cluster=1)
    return Lab(model, found[:4])


def planted(name):
    return lab_of(case.faults(case.ANALYTIC)[name].make())


def test_the_sound_model_has_no_shared_defect():
    assert entrance_suspected(lab_of(case.sound_of(case.ANALYTIC)()), COLOUR) == ""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("picture-mirrored:all", "arrives in another"),
        ("picture-transposed:all", "arrives in another"),
        ("picture-cropped:all", "arrives in another"),
        ("picture-moved:all@48", "arrives in another"),
        ("picture-grey:all", "without its colours"),
        ("picture-one-channel:all", "without its green and blue"),
        ("picture-corner-lost:all", "without its lower right quarter"),
    ],
)
def test_what_all_scorers_share_lies_at_the_entrance(fault, said):
    assert said in entrance_suspected(planted(fault), COLOUR)


def test_a_model_may_do_without_colours_where_nothing_that_is_about_them_is_broken():
    assert entrance_suspected(planted("picture-grey:all"), ("whole.place-does-not-matter",)) == ""


@pytest.mark.parametrize(
    "fault",
    ["map-moved:information@3", "map-mirrored:salience", "map-flipped:query_relevance",
     "map-moved:relevance@3"],
)  # fmt: skip
def test_what_one_scorer_has_alone_does_not(fault):
    assert entrance_suspected(planted(fault), COLOUR) == ""


def test_an_arrival_is_the_centre_of_what_changed_about_its_peak():
    change = torch.zeros(3, 25)
    change[0, 7] = 2.0  # row 1, column 2
    change[1, [12, 13]] = torch.tensor([1.0, 1.0])  # half a cell between
    change[0, 24] = 1.0  # far from the peak: another change
    found = _arrival(change, (5, 5))
    assert found[0].tolist() == [1.0, 2.0]
    assert found[1].tolist() == [2.0, 2.5]
    assert bool(found[2].isnan().all())  # nothing arrived
