"""The allocator spends exactly the budget, clips as it should, and rounds without favour."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.reference.allocator import level_of_detail, solve_multiplier, whole_tokens

LOW, HIGH = 64.0, 400.0
DEMAND = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12)


def tensor(values):
    return torch.tensor([values], dtype=torch.float64)


def allocated(demand, total):
    wanted = tensor(demand)
    multiplier = solve_multiplier(wanted, float(total), LOW, HIGH)
    return float(multiplier), level_of_detail(wanted, multiplier, LOW, HIGH)[0].numpy()


def between(demand, share):
    """A budget that `share` of the way leads from every patch at low to every patch at high."""
    return len(demand) * (LOW + (HIGH - LOW) * share)


def bisected(demand, total):
    """Brute force: halve an interval until the clipped sum is met."""
    demand = np.array(demand)
    low, high = 0.0, 1 / demand.min()
    for _ in range(200):
        middle = (low + high) / 2
        spent = np.clip(LOW + (HIGH - LOW) * middle * demand, LOW, HIGH).sum()
        low, high = (middle, high) if spent < total else (low, middle)
    return np.clip(LOW + (HIGH - LOW) * high * demand, LOW, HIGH)


@given(DEMAND, st.floats(0, 1))
def test_the_tokens_add_up_to_the_total(demand, share):
    total = between(demand, share)
    np.testing.assert_allclose(total, allocated(demand, total)[1].sum(), rtol=0, atol=1e-9)


@given(DEMAND, st.floats(0, 1))
def test_the_solution_is_the_one_that_bisection_finds(demand, share):
    total = between(demand, share)
    np.testing.assert_allclose(
        bisected(demand, total), allocated(demand, total)[1], rtol=0, atol=1e-8
    )


@given(DEMAND, st.floats(0, 1))
def test_the_conditions_of_an_optimum_hold(demand, share):
    """KKT: open patches pay one price, which full ones could pay too."""
    multiplier, lod = allocated(demand, between(demand, share))
    part = (lod - LOW) / (HIGH - LOW)
    assert multiplier >= 0
    assert part.min() >= 0
    assert part.max() <= 1
    for want, got in zip(demand, part, strict=True):
        if got < 1:
            np.testing.assert_allclose(multiplier * want, got, rtol=1e-12, atol=1e-15)
        else:
            assert multiplier * want >= 1 - 1e-12


@given(DEMAND, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_total_takes_from_nobody(demand, one, other):
    less, more = sorted((one, other))
    low, high = (allocated(demand, between(demand, share)) for share in (less, more))
    assert low[0] <= high[0] * (1 + 1e-12)
    assert np.all(low[1] <= high[1] + 1e-9)


@given(DEMAND, st.floats(0, 1))
def test_more_demand_never_gets_less_and_equal_demand_gets_the_same(demand, share):
    doubled = [*demand, *demand]
    lod = allocated(doubled, between(doubled, share))[1]
    np.testing.assert_array_equal(lod[: len(demand)], lod[len(demand) :])
    order = np.argsort(doubled, kind="stable")
    assert np.all(np.diff(lod[order]) >= 0)


@given(DEMAND, st.floats(0.01, 0.99), st.floats(0.1, 10))
def test_the_unit_of_demand_does_not_matter(demand, share, unit):
    total = between(demand, share)
    np.testing.assert_allclose(
        allocated(demand, total)[1],
        allocated([unit * one for one in demand], total)[1],
        rtol=0,
        atol=1e-9,
    )


def test_four_patches_by_hand():
    # 700 - 256 = 444 above the floor; half of it would be 296 a share of 2/3, below 336: all open.
    multiplier, lod = allocated([0.5, 0.125, 0.075, 0.05], 700)
    np.testing.assert_allclose(444 / 336 / 0.75, multiplier)
    np.testing.assert_allclose([360, 138, 108.4, 93.6], lod)
    # 800 - 256 = 544: the first would get 362.7, so it is full and the rest share 208 alike.
    multiplier, lod = allocated([0.5, 0.125, 0.075, 0.05], 800)
    np.testing.assert_allclose(208 / 336 / 0.25, multiplier)
    np.testing.assert_allclose([400, 168, 126.4, 105.6], lod)


def test_each_image_is_solved_on_its_own():
    rng = np.random.default_rng(0)
    demand = torch.from_numpy(rng.random((5, 9)))
    together = solve_multiplier(demand, 1500.0, LOW, HIGH)
    alone = torch.cat([solve_multiplier(row[None], 1500.0, LOW, HIGH) for row in demand])
    assert torch.equal(alone, together)


# Totals that cannot be met


def test_a_total_below_the_floor_leaves_every_patch_at_the_floor():
    multiplier, lod = allocated([0.5, 0.2, 0.1], 100)
    assert multiplier == 0
    np.testing.assert_array_equal([64, 64, 64], lod)


@given(DEMAND, st.floats(1, 100))
def test_a_total_above_the_ceiling_fills_every_patch(demand, excess):
    lod = allocated(demand, len(demand) * HIGH * excess)[1]
    np.testing.assert_allclose(np.full(len(demand), HIGH), lod, rtol=1e-12)


@pytest.mark.parametrize("few", [1, 2, 47, 48])
def test_where_few_patches_have_any_demand_they_are_filled_and_nothing_is_undefined(few):
    demand = [1 / (1 + i) for i in range(few)] + [0.0] * (256 - few)
    lod = allocated(demand, 32768)[1]
    np.testing.assert_allclose([HIGH] * few + [LOW] * (256 - few), lod, rtol=1e-12)


def test_without_any_demand_the_multiplier_is_zero():
    multiplier, lod = allocated([0.0] * 4, 512)
    assert multiplier == 0
    np.testing.assert_array_equal([64] * 4, lod)


@given(DEMAND, st.floats(-5, 0))
def test_demand_below_zero_counts_as_none_and_the_total_is_still_met(demand, below):
    total = len(demand) * (LOW + (HIGH - LOW) / 2) + LOW
    _, lod = allocated([*demand, below], total)
    np.testing.assert_allclose(total, lod.sum(), rtol=0, atol=1e-9)
    assert lod[-1] == LOW


# Whole tokens

LODS = st.lists(st.floats(LOW, HIGH) | st.integers(64, 400).map(float), min_size=1, max_size=12)


@given(LODS)
def test_whole_tokens_are_whole_and_keep_the_rounded_sum(lod):
    tokens = whole_tokens(tensor(lod))[0]
    assert torch.equal(tokens.round(), tokens)
    assert round(float(tensor(lod).sum())) == float(tokens.sum())


@given(LODS)
def test_whole_tokens_differ_by_less_than_one_and_stay_in_the_range(lod):
    tokens = whole_tokens(tensor(lod))[0].numpy()
    assert np.abs(tokens - lod).max() < 1
    assert tokens.min() >= LOW
    assert tokens.max() <= HIGH


@given(st.lists(st.integers(64, 400), min_size=1, max_size=12))
def test_whole_levels_stay_as_they_are(lod):
    assert lod == whole_tokens(tensor([float(one) for one in lod]))[0].tolist()


@pytest.mark.parametrize(
    ("lod", "tokens"),
    [
        ([100.5, 100.5, 100.5, 100.5], [101, 101, 100, 100]),
        ([100.25, 100.5, 100.25, 101.0], [100, 101, 100, 101]),
        ([64.9, 64.2, 64.9], [65, 64, 65]),
        ([64.4, 64.4, 64.4, 64.4], [65, 65, 64, 64]),  # 257.6 rounds to 258: two to give
        ([399.5, 64.5, 64.0], [400, 64, 64]),
    ],
)
def test_the_largest_remainders_are_served_and_ties_in_patch_order(lod, tokens):
    assert tokens == whole_tokens(tensor(lod))[0].tolist()


@pytest.mark.parametrize("level", [64.0, 118.0891, 126.93, 128.0, 200.25, 399.75])
def test_the_last_bits_of_a_sum_decide_nothing(level):
    rng = np.random.default_rng(0)
    plain = whole_tokens(tensor([level] * 9))
    assert bool((plain.diff() <= 0).all())  # ties in patch order: the first have one more
    for _ in range(20):
        noisy = level + rng.uniform(-1e-13, 1e-13, 9)
        assert torch.equal(plain, whole_tokens(tensor(noisy.tolist())))
