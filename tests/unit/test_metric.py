"""Readings of an allocation against numbers worked out by hand, and their invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.errors import ShapeMismatch
from arrcoc_verify.metric import (
    METRICS,
    change,
    divergence,
    relevance_change,
    spill_over,
    token_change,
)
from arrcoc_verify.model import Allocation


def allocation(tokens, relevance=None, membership=None):
    tokens = torch.tensor(tokens, dtype=torch.float64)
    return Allocation(
        relevance=tokens if relevance is None else torch.tensor(relevance, dtype=torch.float64),
        tokens=tokens,
        membership=tokens > 0 if membership is None else torch.tensor(membership),
    )


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def read(name, given_allocation, region):
    return METRICS[name](given_allocation, region).tolist()


def test_readings_of_one_allocation_by_hand():
    held = allocation(
        [[100.0, 200.0, 300.0, 400.0]],
        relevance=[[4.0, 3.0, 2.0, 1.0]],
        membership=[[False, True, True, True]],
    )
    region = mask([1, 1, 0, 0])
    assert [150.0] == read("tokens", held, region)
    assert [0.3] == read("share", held, region)
    assert [0.5] == read("membership", held, region)
    assert [3.5] == read("relevance", held, region)
    assert [pytest.approx(5 / 6)] == read("rank", held, region)
    assert [0.0] == read("most", held, region)
    assert [1.0] == read("most", held, mask([0, 0, 0, 1]))


def test_ties_in_rank_count_half():
    held = allocation([[1.0, 1.0, 1.0, 5.0]])
    assert [pytest.approx(1 / 3)] == read("rank", held, mask([1, 0, 0, 0]))
    assert [1.0] == read("rank", held, mask([0, 0, 0, 1]))
    flat = allocation([[2.0, 2.0, 2.0, 2.0]])
    assert [0.5] == read("rank", flat, mask([0, 1, 0, 0]))


def test_ties_for_the_most_tokens_count_fractionally():
    held = allocation([[9.0, 9.0, 1.0, 9.0]])
    assert [pytest.approx(2 / 3)] == read("most", held, mask([1, 1, 1, 0]))


def test_the_ranks_of_all_patches_average_one_half():
    held = allocation(torch.randn(3, 7).round(decimals=1).tolist())
    assert [pytest.approx(0.5)] * 3 == read("rank", held, torch.ones(3, 7, dtype=torch.bool))


def test_a_single_patch_has_rank_zero_and_no_not_a_number():
    assert [0.0] == read("rank", allocation([[5.0]]), mask([1]))


def test_an_allocation_of_nothing_has_share_zero():
    assert [0.0] == read("share", allocation([[0.0, 0.0]]), mask([1, 0]))


@pytest.mark.parametrize("name", METRICS)
def test_a_region_without_a_patch_is_refused(name):
    held = allocation([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ShapeMismatch, match="holds no patch"):
        read(name, held, mask([1, 0], [0, 0]))


@pytest.mark.parametrize("name", METRICS)
def test_a_region_of_another_shape_is_refused(name):
    with pytest.raises(ShapeMismatch, match=r"shape \(1, 2\), got \(1, 3\)"):
        read(name, allocation([[1.0, 2.0]]), mask([1, 0, 0]))


def test_only_relevance_is_marked_continuous():
    assert {"relevance"} == {name for name, metric in METRICS.items() if metric.continuous}
    assert all(name == metric.name for name, metric in METRICS.items())


def test_changes_of_two_allocations_by_hand():
    before = allocation([[100.0, 100.0, 100.0, 100.0]], relevance=[[0.0, 0.0, 0.0, 0.0]])
    after = allocation([[400.0, 0.0, 0.0, 0.0]], relevance=[[1.0, 1.0, 1.0, 1.0]])
    assert [0.75] == change(before, after).tolist()
    assert [1.0] == relevance_change(before, after).tolist()
    assert [pytest.approx(math.sqrt((300**2 + 3 * 100**2) / 4))] == token_change(
        before, after
    ).tolist()
    assert [100.0] == spill_over(before, after, mask([1, 0, 0, 0])).tolist()
    assert [0.0] == spill_over(before, after, mask([1, 1, 1, 1])).tolist()


def test_disjoint_allocations_diverge_by_one_bit_and_equal_ones_by_none():
    left, right = allocation([[5.0, 0.0]]), allocation([[0.0, 3.0]])
    assert [1.0] == divergence(left, right).tolist()
    assert [1.0] == change(left, right).tolist()
    assert [0.0] == divergence(left, left).tolist()
    # Half of the mass moved: 1/2 log2(1/(3/4)) + 1/2 log2((1/2)/(3/4)) + 1/2 log2((1/2)/(1/4))
    # all halved.
    both = allocation([[1.0, 1.0]])
    expected = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2
    assert [pytest.approx(expected)] == divergence(left, both).tolist()


amounts = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=5, max_size=5)


@given(amounts, amounts)
def test_divergence_and_change_are_symmetric_and_stay_inside_their_bounds(first, second):
    one, two = allocation([first]), allocation([second])
    for distance in (divergence, change):
        value = float(distance(one, two))
        assert 0 <= value <= 1
        assert value == pytest.approx(float(distance(two, one)), abs=1e-12)
    # Lin (1991): the divergence in bits is at most the variational distance, halved.
    assert float(divergence(one, two)) <= float(change(one, two)) + 1e-12


@given(amounts, st.floats(0.1, 100))
def test_shares_do_not_see_the_scale_of_tokens(tokens, factor):
    one, two = allocation([tokens]), allocation([[factor * t for t in tokens]])
    assert float(change(one, two)) == pytest.approx(0, abs=1e-9)
