"""The effects that docs/analytic.md derives by hand are those that the engine measures.

`by_hand` follows the document in numpy; the engine runs the steps of the model. They share scores.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arrcoc_verify.effect import effects, frozen_for, reallocated
from arrcoc_verify.graph import Edit, resume, run
from arrcoc_verify.intervention import freeze, shift
from arrcoc_verify.metric import METRICS
from arrcoc_verify.model import SCORERS, TENSIONS
from arrcoc_verify.reference import analytic
from arrcoc_verify.scenes import scenes
from tests.reference import by_hand
from tests.reference.by_hand import KINDS
from tests.reference.small_model import edited, ran

EXACT = {"rtol": 0, "atol": 1e-9}
TOKENS = METRICS["tokens"]


def scores_of(base, index):
    return np.stack([base[f"knowing.{name}"][index].numpy() for name in SCORERS])


def said_of(base, index):
    return tuple(base["balancing.context"][index, :3].tolist())


@pytest.fixture(scope="module")
def shown():
    """Eight composed scenes of real photographs."""
    return scenes("select", per_cluster=1)[:8]


@pytest.fixture(scope="module")
def region(shown):
    return torch.as_tensor(np.stack([s.target.cells((16, 16), s.image.size) for s in shown]))


@pytest.fixture(scope="module")
def clean(shown):
    queries = [one.query for one in shown]
    queries[-1], queries[-2] = "describe the whole scene", "anything odd?"
    return run(analytic.model(), [one.image for one in shown], queries)


# Exact effects


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scorer", range(3), ids=SCORERS)
@pytest.mark.parametrize("amount", [-0.4, -0.01, 0.01, 0.1, 0.6])
def test_effects_on_real_scenes_are_the_derived_ones(clean, region, scorer, kind, amount):
    edit = shift(f"knowing.{SCORERS[scorer]}", amount, where=region)
    after = edited(clean, [edit], kind)
    for index in range(len(clean)):
        scores, said = scores_of(clean, index), said_of(clean, index)
        before = by_hand.allocate(scores, said, 32768)
        moved = by_hand.shifted(scores, scorer, region[index].numpy(), amount)
        hand = by_hand.allocate(moved, said, 32768, before, kind)
        actual = (after["attending.lod"] - clean["attending.lod"])[index]
        np.testing.assert_allclose(hand.lod - before.lod, actual, **EXACT)
        tokens = after["attending.tokens"][index].numpy()
        assert np.abs(tokens - hand.lod).max() < 1
        if kind == "total":
            np.testing.assert_allclose(0, actual.sum(), atol=1e-8)
        if kind == "unrepaired":
            assert 0 == float(actual[~region[index]].abs().max())


@pytest.mark.parametrize("scorer", range(3), ids=SCORERS)
def test_the_effects_that_are_reported_are_the_derived_ones_within_a_token(clean, region, scorer):
    edit = shift(f"knowing.{SCORERS[scorer]}", 0.2, where=region)
    reported = effects(clean, [edit], TOKENS, region)
    for index in range(len(clean)):
        scores, said, where = scores_of(clean, index), said_of(clean, index), region[index].numpy()
        before = by_hand.allocate(scores, said, 32768)
        moved = by_hand.shifted(scores, scorer, where, 0.2)
        for kind in KINDS:
            hand = by_hand.allocate(moved, said, 32768, before, kind)
            expected = (hand.lod - before.lod)[where].mean()
            assert abs(expected - float(getattr(reported, kind)[index])) < 1
            whole = (by_hand.whole(hand.lod) - by_hand.whole(before.lod))[where].mean()
            np.testing.assert_allclose(whole, float(getattr(reported, kind)[index]), **EXACT)


CASES = st.tuples(
    st.integers(0, 10**6),  # seed of the scores
    st.integers(2, 9),  # patches
    st.tuples(*[st.sampled_from([0.0, 1.0])] * 3),  # broad, odd, specific
    st.floats(0.05, 0.95),  # budget, from all low to all high
    st.integers(0, 2),  # scorer
    st.floats(-1, 1),  # shift
)


def small_case(case):
    seed, patches, said, share, scorer, amount = case
    rng = np.random.default_rng(seed)
    scores = rng.random((3, patches)) ** 2
    where = rng.random(patches) < 0.5
    where[rng.integers(patches)] = True
    return scores, said, patches * (64 + 336 * share), scorer, where, amount


@settings(max_examples=60)
@given(CASES)
def test_effects_in_small_random_cases_are_the_derived_ones(case):
    scores, said, total, scorer, where, amount = small_case(case)
    base = ran(scores[None], [said], total)
    before = by_hand.allocate(scores, said, total)
    np.testing.assert_allclose(before.lod, base["attending.lod"][0], **EXACT)
    moved = by_hand.shifted(scores, scorer, where, amount)
    mask = torch.from_numpy(where)[None]
    for kind in KINDS:
        edit = shift(f"knowing.{SCORERS[scorer]}", amount, where=mask)
        after = edited(base, [edit], kind)
        hand = by_hand.allocate(moved, said, total, before, kind)
        np.testing.assert_allclose(hand.lod, after["attending.lod"][0], **EXACT)
        assert np.abs(after["attending.tokens"][0].numpy() - hand.lod).max() < 1


def test_frozen_sites_are_those_of_the_document():
    assert ["attending.multiplier"] == frozen_for(analytic.model(), "local")
    assert {"attending.multiplier", "balancing.weights", "balancing.normaliser"} == set(
        frozen_for(analytic.model(), "unrepaired")
    )


# First order


def away_from_corners(before, step):
    """Whether a shift of `step` is sure to cross no corner of the piecewise formulas."""
    part = before.multiplier * before.demand
    return np.abs(part - 1).min() > 50 * step and before.mix.min() > 10 * step


@settings(max_examples=60)
@given(CASES)
def test_slopes_are_the_limits_of_the_exact_effects(case):
    scores, said, total, scorer, where, _ = small_case(case)
    scores += 0.02
    before = by_hand.allocate(scores, said, total)
    step = 1e-5
    assume(away_from_corners(before, step))
    slopes = by_hand.slopes(before, scorer, where)
    for kind in KINDS:
        up, down = (
            by_hand.allocate(
                by_hand.shifted(scores, scorer, where, sign * step), said, total, before, kind
            )
            for sign in (1, -1)
        )
        np.testing.assert_allclose(
            (up.lod - down.lod) / (2 * step), slopes[kind], rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("scorer", range(3), ids=SCORERS)
def test_the_engine_moves_along_the_slopes_on_real_scenes(clean, region, scorer):
    step = 1e-5
    for kind in KINDS:
        up, down = (
            edited(clean, [shift(f"knowing.{SCORERS[scorer]}", s * step, where=region)], kind)
            for s in (1, -1)
        )
        measured = (up["attending.lod"] - down["attending.lod"]) / (2 * step)
        for index in range(len(clean)):
            before = by_hand.allocate(scores_of(clean, index), said_of(clean, index), 32768)
            expected = by_hand.slopes(before, scorer, region[index].numpy())[kind]
            np.testing.assert_allclose(expected, measured[index], rtol=1e-5, atol=1e-3)


def test_total_slopes_add_up_to_nothing_and_full_patches_have_none():
    scores = np.random.default_rng(4).random((3, 9)) ** 2
    before = by_hand.allocate(scores, (0, 0, 1), 9 * 300)
    full = before.lod == 400
    assert 0 < full.sum() < 9
    for scorer in range(3):
        slopes = by_hand.slopes(before, scorer, np.arange(9) < 4)
        np.testing.assert_allclose(0, slopes["total"].sum(), atol=1e-9)
        for kind in KINDS:
            np.testing.assert_array_equal(0, slopes[kind][full])


# Untouched patches


def test_an_untouched_patch_moves_by_the_normaliser_when_the_weights_are_held():
    scores = np.random.default_rng(5).random((1, 3, 8)) + 0.1
    base = ran(scores, [(0, 0, 1)], 8 * 128)
    where = torch.arange(8)[None] < 2
    for scorer, name in enumerate(SCORERS):
        step = 1e-6
        after = resume(
            base,
            edits=[shift(f"knowing.{name}", step, where=where), freeze("balancing.weights", base)],
        )
        moved = (after["balancing.relevance"] - base["balancing.relevance"])[0, 2:] / step
        mix, level = base["balancing.mix"][0, 2:], base["balancing.normaliser"][0]
        weight = base["balancing.weights"][0, scorer]
        np.testing.assert_allclose(-mix * weight * 0.25 / (mix + level) ** 2, moved, rtol=1e-4)
        assert float(moved.max()) < 0


def test_on_untouched_open_patches_the_budget_adds_demand_times_the_change_of_the_multiplier():
    scores = np.random.default_rng(6).random((1, 3, 8)) + 0.1
    base = ran(scores, [(0, 0, 1)], 8 * 128)
    where = torch.arange(8)[None] < 2
    edit = shift("knowing.salience", 0.5, where=where)
    local, total = (edited(base, [edit], kind) for kind in ("local", "total"))
    assert float(total["attending.lod"].max()) < 400
    budget = (total["attending.lod"] - local["attending.lod"])[0]
    change = total["attending.multiplier"] - base["attending.multiplier"]
    np.testing.assert_allclose(336 * total["attending.demand"][0] * change, budget, **EXACT)
    assert float(budget[2:].abs().min()) > 0


# Two orders of the mediated effect


@settings(max_examples=40)
@given(CASES)
def test_the_two_orders_differ_by_the_product_of_both_changes_where_all_is_open(case):
    scores, said, total, scorer, where, amount = small_case(case)
    before = by_hand.allocate(scores, said, total)
    moved = by_hand.shifted(scores, scorer, where, amount)
    local, after = (
        by_hand.allocate(moved, said, total, before, kind) for kind in ("local", "total")
    )
    first = by_hand.spend(before.demand, after.multiplier) - before.lod
    last = after.lod - local.lod
    product = 336 * (after.demand - before.demand) * (after.multiplier - before.multiplier)
    open_ = np.ones(len(first), dtype=bool)
    for demand in (before.demand, after.demand):
        for multiplier in (before.multiplier, after.multiplier):
            open_ &= demand * multiplier < 1
    np.testing.assert_allclose(product[open_], (last - first)[open_], rtol=1e-9, atol=1e-9)


def test_the_engine_reports_the_first_order_by_writing_the_multiplier_alone(clean, region):
    edit = shift("knowing.salience", 0.2, where=region)
    reported = reallocated(clean, [edit], TOKENS, region)
    for index in range(len(clean)):
        scores, said, where = scores_of(clean, index), said_of(clean, index), region[index].numpy()
        before = by_hand.allocate(scores, said, 32768)
        after = by_hand.allocate(by_hand.shifted(scores, 1, where, 0.2), said, 32768)
        swapped = by_hand.spend(before.demand, after.multiplier)
        whole = (by_hand.whole(swapped) - by_hand.whole(before.lod))[where].mean()
        np.testing.assert_allclose(whole, float(reported[index]), **EXACT)
        assert abs((swapped - before.lod)[where].mean() - float(reported[index])) < 1


def test_where_the_demand_did_not_change_both_orders_are_the_same():
    base = ran(np.random.default_rng(7).random((1, 3, 8)), [(0, 0, 1)], 8 * 128)
    last_patch = torch.arange(8)[None] == 7
    edit = Edit(site="attending.demand", write=torch.zeros_like, where=last_patch)
    local, total = (edited(base, [edit], kind) for kind in ("local", "total"))
    assert float(total["attending.lod"].max()) < 400
    swapped = resume(
        base, edits=[Edit(site="attending.multiplier", value=total["attending.multiplier"])]
    )
    first, last = (
        (after["attending.lod"] - start["attending.lod"])[~last_patch]
        for after, start in ((swapped, base), (total, local))
    )
    np.testing.assert_allclose(first, last, **EXACT)
    assert float(first.min()) > 0


# Tensions and weights


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_tension_moves_the_weights_as_the_softmax_says(tension):
    at = np.array(tension)
    weight = analytic.weights(torch.tensor([tension], dtype=torch.float64))[0].numpy()
    expected = 2.4 * weight[:, None] * (np.eye(3) - weight)  # rows: weight, columns: tension
    step = 1e-6
    for column in range(3):
        ends = [torch.from_numpy(at + sign * step * np.eye(3)[column])[None] for sign in (1, -1)]
        up, down = (analytic.weights(end)[0].numpy() for end in ends)
        np.testing.assert_allclose(expected[:, column], (up - down) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(expected, expected.T, atol=1e-15)
    np.testing.assert_allclose(0, expected.sum(1), atol=1e-15)
    assert 0 < np.diag(expected).max() <= 0.6
    assert expected[~np.eye(3, dtype=bool)].max() < 0


@pytest.mark.parametrize("column", range(3), ids=TENSIONS)
def test_tokens_follow_a_tension_as_derived(clean, column):
    step = 1e-6
    push = torch.zeros(3, dtype=torch.float64)
    push[column] = step

    def along(sign):
        return [Edit(site="balancing.tensions", write=lambda old: old + sign * push)]

    for kind in ("local", "total"):
        up, down = (edited(clean, along(sign), kind)["attending.lod"] for sign in (1, -1))
        measured = (up - down) / (2 * step)
        for index in range(len(clean)):
            at = by_hand.allocate(scores_of(clean, index), said_of(clean, index), 32768)
            weights = 2.4 * at.weights * (np.eye(3)[column] - at.weights[column])
            mix = weights @ at.scores
            relevance = (at.level * mix - at.mix * mix.mean()) / (at.mix + at.level) ** 2
            demand = 4 * at.relevance**3 * relevance
            open_ = at.multiplier * at.demand < 1
            spent = at.multiplier * demand
            if kind == "total":
                change = -at.multiplier * demand[open_].sum() / at.demand[open_].sum()
                spent = spent + at.demand * change
            np.testing.assert_allclose(336 * spent * open_, measured[index], rtol=1e-4, atol=1e-3)
