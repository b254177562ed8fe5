"""When an image counts as changed by its neighbours: closed forms at cuts, ties and steps."""

import pytest
import torch

from arrcoc_verify.adapters.conformance.behaviour import departure
from arrcoc_verify.model import Allocation, Declaration

DECLARED = {"grid": (2, 2), "image_size": (2, 2)}
RELEVANCE = (0.1, 0.4, 0.4 + 1e-7, 0.9)


def allocation(tokens, relevance=RELEVANCE):
    tokens = torch.tensor([tokens], dtype=torch.float64)
    return Allocation(
        relevance=torch.tensor([relevance], dtype=torch.float64),
        tokens=tokens,
        membership=tokens > 0,
    )


def told(before, after, relevance=RELEVANCE, **declared):
    one, other = allocation(before), allocation(after, relevance)
    return departure(one, other, 0, 0, Declaration(**DECLARED, **declared))[1]


def test_the_same_allocation_does_not_depart():
    assert told((64, 100, 100, 400), (64, 100, 100, 400)) == ""


@pytest.mark.parametrize("moved", [2e-5, 1e-3, float("nan")])
def test_relevance_beyond_the_tolerance_departs(moved):
    relevance = (0.1, 0.4, 0.4, 0.9 + moved)
    assert "relevance by" in told((64, 100, 100, 400), (64, 100, 100, 400), relevance)


def test_relevance_within_the_tolerance_does_not_depart():
    assert told((64, 100, 100, 400), (64, 100, 100, 400), (0.1, 0.4, 0.4, 0.900008)) == ""


def test_one_token_by_rounding_does_not_depart_but_two_do():
    assert told((64, 100, 100, 400), (64, 101, 100, 400)) == ""
    assert "tokens of 1 patches, by up to 2" in told((64, 100, 100, 400), (64, 102, 100, 400))


def test_many_rounded_the_other_way_depart():
    assert "tokens of 3" in told((64, 100, 100, 400), (65, 101, 101, 400))


def test_fractions_may_not_move_at_all():
    assert "tokens of 1" in told((64, 100, 100, 400), (64, 100.5, 100, 400), integer=False)
    assert told((64, 100, 100, 400), (64, 100.0005, 100, 400), integer=False) == ""


def test_patches_that_tie_at_a_rung_may_change_places():
    ladder = {"ladder": (64.0, 100.0, 256.0, 400.0)}
    assert told((64, 100, 256, 400), (64, 256, 100, 400), **ladder) == ""
    assert "tokens of 1" in told((64, 100, 256, 400), (256, 100, 256, 400), **ladder)


def test_patches_that_tie_at_the_last_place_may_change_places():
    mask = {"budget_kind": "keep_mask", "lod": None}
    assert told((0, 0, 1, 1), (0, 1, 0, 1), **mask) == ""
    assert "of 2 patches" in told((0, 0, 1, 1), (1, 0, 1, 0), **mask)
