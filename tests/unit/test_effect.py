"""Total, local, unrepaired and mediated effects where each is known in closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.effect import effects, frozen_for, matched_elsewhere, reallocated
from arrcoc_verify.errors import ShapeMismatch
from arrcoc_verify.graph import Edit, resume, run
from arrcoc_verify.intervention import ablate, freeze, shift
from arrcoc_verify.metric import METRICS
from tests.unit.small_models import (
    READ,
    TOTAL,
    conserved,
    linear,
    pictures,
    queries,
    region,
    repairing,
)

TOKENS = METRICS["tokens"]


def same(expected, actual):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_the_effect_of_a_shift_in_a_linear_model_is_its_coefficient():
    base = run(linear(), pictures(3), queries(3))
    moved = effects(base, [shift("balancing.relevance", 2.0)], TOKENS, region(3, 0, 1))
    same(torch.full((3,), 20.0, dtype=torch.float64), moved.total)


def test_without_a_shared_budget_local_equals_total_and_nothing_is_mediated():
    base = run(linear(), pictures(3), queries(3))
    moved = effects(base, [shift("knowing.features", 1.0)], TOKENS, region(3, 2))
    same(torch.full((3,), 10 * float(READ.sum()), dtype=torch.float64), moved.total)
    same(moved.total, moved.local)
    same(torch.zeros(3, dtype=torch.float64), moved.mediated)
    assert moved.unrepaired is None


def test_ablating_an_unrelated_patch_gives_the_face_tokens_without_causing_them():
    base = run(conserved(), pictures(4), queries(4))
    face, elsewhere = region(4, 0), region(4, 3)
    edit = ablate("attending.demand", "zero", where=elsewhere)
    moved = effects(base, [edit], TOKENS, face)
    demand = base["attending.demand"]
    whole, rest = demand.sum(1), demand[:, :3].sum(1)
    same(TOTAL * demand[:, 0] * (1 / rest - 1 / whole), moved.total)
    assert bool((moved.total > 0).all())
    assert torch.equal(torch.zeros(4, dtype=torch.float64), moved.local)
    same(moved.total, moved.mediated)


def test_the_mediated_effect_is_the_same_in_both_orders_without_clipping():
    base = run(conserved(), pictures(4), queries(4))
    edit = ablate("attending.demand", "zero", where=region(4, 3))
    moved = effects(base, [edit], TOKENS, region(4, 0))
    same(moved.mediated, reallocated(base, [edit], TOKENS, region(4, 0)))


def test_the_local_effect_of_ablating_the_patch_itself_is_what_it_held():
    base = run(conserved(), pictures(4), queries(4))
    edit = ablate("attending.demand", "zero", where=region(4, 0))
    moved = effects(base, [edit], TOKENS, region(4, 0))
    same(-base["attending.tokens"][:, 0], moved.total)
    same(-base["attending.tokens"][:, 0], moved.local)


def test_the_budget_adds_up_after_every_edit():
    base = run(conserved(), pictures(4), queries(4))
    after = resume(base, edits=[shift("attending.demand", 5.0, where=region(1, 1))])
    same(torch.full((4,), TOTAL, dtype=torch.float64), after["attending.tokens"].sum(1))


def test_softmax_weights_repair_an_ablated_scorer_and_only_unrepaired_shows_its_weight():
    base = run(repairing(), pictures(3), queries(3))
    face = region(3, 0)
    moved = effects(base, [ablate("knowing.salience", "zero")], TOKENS, face)
    weight, score = base["balancing.weights"][:, 1], base["knowing.salience"][:, 0]
    same(torch.full((3,), 0.5, dtype=torch.float64), weight)
    same(torch.zeros(3, dtype=torch.float64), moved.total)
    same(-100 * weight * score, moved.unrepaired)


def test_an_edit_of_what_would_be_frozen_is_not_undone_by_freezing():
    base = run(conserved(), pictures(2), queries(2))
    edit = Edit(site="attending.multiplier", write=lambda old: 2 * old)
    moved = effects(base, [edit], TOKENS, region(2, 0))
    same(base["attending.tokens"][:, 0], moved.total)
    same(moved.total, moved.local)


def test_effects_on_a_base_with_edits_keep_these_edits():
    clean = run(conserved(), pictures(3), queries(3))
    base = resume(clean, edits=[freeze("attending.multiplier", clean)])
    edit = ablate("attending.demand", "zero", where=region(3, 3))
    moved = effects(base, [edit], TOKENS, region(3, 0))
    assert torch.equal(torch.zeros(3, dtype=torch.float64), moved.total)


def test_a_conserved_budget_without_a_multiplier_has_no_local_effect():
    model = linear(conserved_total=True)
    assert frozen_for(model, "local") is None
    moved = effects(
        run(model, pictures(2), queries(2)),
        [shift("balancing.relevance", 1.0)],
        TOKENS,
        region(2, 0),
    )
    assert moved.local is None
    assert moved.mediated is None
    assert reallocated(run(model, pictures(2), queries(2)), [], TOKENS, region(2, 0)) is None


def test_what_is_frozen_for_each_kind_is_named():
    assert frozen_for(conserved(), "local") == ["attending.multiplier"]
    assert frozen_for(conserved(), "unrepaired") is None
    assert frozen_for(repairing(), "local") == []
    assert frozen_for(repairing(), "unrepaired") == ["balancing.weights"]


def rectangle(rows, columns, top, left, height, width):
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask.flatten()


@given(
    st.integers(0, 2), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2), st.integers(0, 99)
)
def test_a_matched_region_keeps_its_shape_and_never_overlaps_when_there_is_room(
    top, left, height, width, seed
):
    mask = rectangle(6, 6, top, left, height, width)[None]
    placed = matched_elsewhere(mask, mask, (6, 6), seed)
    assert int(placed.sum()) == height * width
    assert not bool((placed & mask).any())


def test_a_matched_region_avoids_all_it_is_told_to_avoid():
    mask = rectangle(3, 3, 0, 0, 1, 1)[None]
    avoid = ~rectangle(3, 3, 2, 2, 1, 1)[None]
    for seed in range(5):
        assert torch.equal(~avoid, matched_elsewhere(mask, avoid, (3, 3), seed))


def test_without_room_the_least_overlapping_place_is_taken():
    mask = rectangle(2, 2, 0, 0, 2, 1)[None]
    avoid = torch.tensor([[True, True, True, False]])
    expected = torch.tensor([[False, True, False, True]])
    assert torch.equal(expected, matched_elsewhere(mask, avoid, (2, 2), 0))


def test_an_irregular_region_keeps_its_holes():
    cross = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    placed = matched_elsewhere(cross.flatten()[None], cross.flatten()[None], (4, 4), 1)
    assert int(placed.sum()) == 3


def test_an_empty_region_cannot_be_matched():
    with pytest.raises(ShapeMismatch, match="no shape to place"):
        matched_elsewhere(region(1), region(1, 0), (2, 2), 0)
