"""The card's figures: what the command prints, and that they mean what they say."""

import math

import pytest
import torch

from arrcoc_verify.adapters import load
from arrcoc_verify.errors import ArrcocError, UsageError
from arrcoc_verify.reference.trained import evaluation, objects

FIGURES = ("pointing", "target_ratio", "accuracy", "accuracy_target_floor", "accuracy_uniform",
           "paraphrase_ratio", "batch_invariance")  # fmt: skip


@pytest.fixture(scope="module")
def few(model):
    return evaluation.evaluate(model, n=8, seed=0, tell=lambda *_: None)


def test_every_figure_has_value_interval_and_n(few):
    for name in FIGURES:
        one = few[name]
        low, high = one["interval"]
        assert {"value", "interval", "n"} <= set(one)
        assert low <= one["value"] <= high, name
        assert 0 < one["n"], name


def test_the_shipped_weights_do_what_the_card_says(few):
    """Wide bounds for 8 scenes; the command takes 200 a set."""
    assert 0.9 <= few["pointing"]["value"]
    assert 3 <= few["target_ratio"]["value"] <= 6.25
    assert 0.8 <= few["accuracy"]["value"]
    assert few["accuracy_target_floor"]["value"] <= few["accuracy"]["value"] - 0.2
    assert few["accuracy_uniform"]["value"] <= few["accuracy"]["value"] - 0.15
    assert few["paraphrase_ratio"]["value"] < 0.1
    assert few["batch_invariance"]["value"] < 1e-5
    assert 0.6 <= few["pointing_unseen_cutouts"]["value"]
    assert few["pointing_unseen_labels"]["value"] > few["chance"]["value"]


def test_a_hit_is_the_share_of_greatest_patches_inside():
    inside = torch.tensor([True, True, False, False])

    assert 1.0 == evaluation._hit(torch.tensor([1.0, 3, 2, 0]), inside)
    assert 0.0 == evaluation._hit(torch.tensor([1.0, 3, 4, 0]), inside)
    assert 0.5 == evaluation._hit(torch.tensor([1.0, 4, 4, 0]), inside)


def test_intervals_are_over_photographs_and_ratios_are_of_means():
    pairs = [(1.0, 2.0), (3.0, 2.0), (2.0, 4.0), (2.0, 4.0)]
    found = evaluation._ratio(pairs, ["a", "a", "b", "b"])

    assert math.isclose(8 / 12, found["value"])
    assert math.isclose(0.5, found["interval"][0])
    assert math.isclose(1.0, found["interval"][1])


def test_all_alike_has_an_exact_interval():
    found = evaluation._rate([1.0] * 20, [str(i) for i in range(20)])

    assert 1.0 == found["value"] == found["interval"][1]
    assert math.isclose(0.025 ** (1 / 20), found["interval"][0], rel_tol=1e-6)


def test_a_model_without_a_task_head_is_told_so():
    with pytest.raises(ArrcocError, match=r"realising\.answer"):
        evaluation.evaluate(load("reference:analytic"), n=8, seed=0, tell=lambda *_: None)


def test_things_of_one_label_make_no_scene():
    with pytest.raises(UsageError, match="two labels"):
        evaluation.Held(objects.photographed("train")[:1], seed=0)
