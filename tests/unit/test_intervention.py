"""Interventions on a linear model, where what each must do is known to the last bit."""

import inspect

import pytest
import torch

from arrcoc_verify.errors import BadModel, ShapeMismatch, UnknownName, UsageError
from arrcoc_verify.graph import resume, run
from arrcoc_verify.intervention import (
    Reference,
    ablate,
    clamp,
    freeze,
    patch,
    resample,
    shift,
    steer,
)
from tests.unit.small_models import READ, conserved, linear, pictures, queries, region

FEATURES, RELEVANCE, TOKENS = "knowing.features", "balancing.relevance", "attending.tokens"


@pytest.fixture
def base():
    return run(linear(), pictures(5), queries(5), batch_size=2)


@pytest.fixture
def reference():
    held = run(linear(), pictures(9)[5:], queries(4))
    return Reference.of(held, [FEATURES, RELEVANCE], ["a", "b", "c", "d"])


def same(expected, actual):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_patching_a_run_from_itself_changes_no_bit(base):
    for name in base.model.sites:
        assert torch.equal(base[TOKENS], resume(base, edits=[patch(name, base)])[TOKENS])


def test_patching_everywhere_gives_the_source_exactly(base):
    source = run(linear(), pictures(10)[5:], queries(5))
    assert torch.equal(source[TOKENS], resume(base, edits=[patch(FEATURES, source)])[TOKENS])


def test_patches_of_disjoint_regions_add_up_in_a_linear_model(base):
    source = run(linear(), pictures(10)[5:], queries(5))
    left, right = region(1, 0, 2), region(1, 1)

    def effect(*masks):
        edits = [patch(FEATURES, source, where=mask) for mask in masks]
        return resume(base, edits=edits)[TOKENS] - base[TOKENS]

    same(effect(left) + effect(right), effect(left, right))


def test_patching_touches_the_masked_patches_only(base):
    source = run(linear(), pictures(10)[5:], queries(5))
    after = resume(base, edits=[patch(RELEVANCE, source, where=region(1, 3))])[TOKENS]
    assert torch.equal(base[TOKENS][:, :3], after[:, :3])
    assert torch.equal(source[TOKENS][:, 3], after[:, 3])


def test_each_image_can_have_its_own_mask(base):
    mask = torch.eye(5, 4, dtype=torch.bool)
    after = resume(base, edits=[ablate(RELEVANCE, "zero", where=mask)])[TOKENS]
    assert torch.equal(mask, after == 64.0)


def test_a_patch_can_take_the_examples_in_another_order(base):
    order = torch.tensor([4, 3, 2, 1, 0])
    assert torch.equal(
        base[TOKENS][order], resume(base, edits=[patch(FEATURES, base, order=order)])[TOKENS]
    )


def test_a_patch_from_a_run_of_another_length_is_refused(base):
    source = run(linear(), pictures(3), queries(3))
    with pytest.raises(ShapeMismatch, match="3 images, the run has 5"):
        resume(base, edits=[patch(FEATURES, source)])


def test_an_unknown_site_names_the_nearest(base):
    with pytest.raises(UnknownName, match=r"did you mean 'knowing\.features'"):
        resume(base, edits=[ablate("knowing.feature", "zero")])


def test_a_site_without_patches_cannot_be_masked():
    base = run(conserved(), pictures(2), queries(2))
    with pytest.raises(BadModel, match="no patches to select"):
        resume(base, edits=[ablate("attending.multiplier", "zero", where=region(1, 0))])


def test_frozen_means_held_whatever_happens_upstream(base):
    after = resume(base, edits=[ablate(FEATURES, "zero"), freeze(RELEVANCE, base)])
    assert torch.equal(base[TOKENS], after[TOKENS])
    assert bool((after[FEATURES] == 0).all())


def test_zero_ablation_leaves_the_offset(base):
    assert bool((resume(base, edits=[ablate(RELEVANCE, "zero")])[TOKENS] == 64).all())


def test_mean_ablation_writes_the_mean_of_the_reference_at_each_place(base, reference):
    after = resume(base, edits=[ablate(FEATURES, "mean", reference=reference)])
    same(reference.at(FEATURES).mean(0).expand(5, 4, 2), after[FEATURES])


def test_ablations_of_a_symmetric_feature_differ_as_they_must(base):
    # The reference is -1 or +1, the activation far from it: mean and zero agree at 0; resampling
    # keeps the reference's spread, which both others destroy.
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1).expand(2, 4)
    symmetric = Reference(values={RELEVANCE: signs}, units=("minus", "plus"))
    wide = run(linear(), pictures(400), queries(400))
    by = {
        kind: resume(wide, edits=[ablate(RELEVANCE, kind, reference=symmetric)])[RELEVANCE]
        for kind in ("zero", "mean", "resample")
    }
    assert torch.equal(by["zero"], by["mean"])
    assert set(by["resample"].flatten().tolist()) == {-1.0, 1.0}
    assert abs(float(by["resample"].mean())) < 0.2  # 4 standard errors of 400 fair signs
    assert float(by["resample"].var(0).min()) > 0.9
    assert bool((by["resample"] == by["resample"][:, :1]).all())  # whole examples, never a blend


def test_zero_and_mean_ablation_differ_where_the_mean_is_not_zero(base):
    lifted = Reference(
        values={RELEVANCE: torch.full((3, 4), 2.0, dtype=torch.float64)}, units=("a", "b", "c")
    )
    zero = resume(base, edits=[ablate(RELEVANCE, "zero")])[TOKENS]
    mean = resume(base, edits=[ablate(RELEVANCE, "mean", reference=lifted)])[TOKENS]
    same(zero + 20, mean)


@pytest.mark.parametrize("by", ["mean", "resample"])
def test_a_reference_of_one_is_no_ablation_and_refused(by):
    single = Reference(values={RELEVANCE: torch.zeros(1, 4)}, units=("only",))
    for reference in (None, single):
        with pytest.raises(UsageError, match="needs a reference set of 2 or more"):
            ablate(RELEVANCE, by, reference=reference)


def test_an_unknown_kind_of_ablation_is_refused(reference):
    with pytest.raises(UsageError, match="'zero', 'mean' or 'resample', got 'noise'"):
        inspect.unwrap(ablate)(RELEVANCE, "noise", reference=reference)  # past beartype


def test_a_reference_without_the_site_says_what_it_holds(reference):
    with pytest.raises(UsageError, match=r"no activations of 'attending\.tokens'.*relevance"):
        ablate(TOKENS, "mean", reference=reference)


def test_a_reference_needs_one_unit_an_example(base):
    with pytest.raises(UsageError, match="got 2 for 5 examples"):
        Reference.of(base, [FEATURES], ["a", "b"])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_resampling_draws_the_same_whatever_the_batch_and_however_often(batch_size, reference):
    whole = run(linear(), pictures(5), queries(5), batch_size=5)
    edit = ablate(FEATURES, "resample", reference=reference, seed=3)
    expected = resume(whole, edits=[edit])[FEATURES]
    cut = run(linear(), pictures(5), queries(5), batch_size=batch_size)
    assert torch.equal(expected, resume(cut, edits=[edit])[FEATURES])
    assert torch.equal(expected, resume(cut, edits=[edit])[FEATURES])


def test_another_seed_draws_other_examples(reference):
    wide = run(linear(), pictures(40), queries(40))
    first, second = (
        resume(wide, edits=[ablate(FEATURES, "resample", reference=reference, seed=seed)])[FEATURES]
        for seed in (0, 1)
    )
    assert not torch.equal(first, second)


def test_resampled_rows_are_those_the_caller_drew(base, reference):
    rows = torch.tensor([3, 0, 0, 1, 2])
    after = resume(base, edits=[resample(FEATURES, reference, rows)])
    assert torch.equal(reference.at(FEATURES)[rows], after[FEATURES])


@pytest.mark.parametrize("strength", [-2.0, 0.0, 0.5, 3.0])
def test_steering_moves_tokens_in_proportion_to_its_strength(base, strength):
    direction = torch.tensor([0.3, -1.2], dtype=torch.float64)
    after = resume(base, edits=[steer(FEATURES, direction, strength, model=base.model)])
    same(base[TOKENS] + 10 * strength * float(direction @ READ), after[TOKENS])


def test_a_site_without_channels_is_steered_by_a_number(base):
    after = resume(base, edits=[steer(RELEVANCE, torch.tensor(2.0), 1.5, model=base.model)])
    same(base[TOKENS] + 30, after[TOKENS])
    with pytest.raises(ShapeMismatch, match="no channel axis"):
        steer(RELEVANCE, torch.ones(2), 1.0, model=base.model)


def test_a_shift_is_added_in_the_mask_only(base):
    after = resume(base, edits=[shift(RELEVANCE, 4.0, where=region(1, 2))])
    same(base[TOKENS] + 40 * region(5, 2), after[TOKENS])
    with pytest.raises(UsageError, match="per image"):
        shift(RELEVANCE, torch.ones(5))


def test_a_clamp_keeps_inside_and_equal_ends_set_a_constant(base):
    low, high = 0.0, 1.0
    after = resume(base, edits=[clamp(RELEVANCE, low=low, high=high)])
    assert torch.equal(base[RELEVANCE].clamp(low, high), after[RELEVANCE])
    constant = resume(base, edits=[clamp(RELEVANCE, low=2.0, high=2.0)])
    assert bool((constant[TOKENS] == 84).all())


def test_a_clamp_without_ends_or_with_crossed_ends_is_refused():
    with pytest.raises(UsageError, match="low, high or both"):
        clamp(RELEVANCE)
    with pytest.raises(UsageError, match="above high"):
        clamp(RELEVANCE, low=2.0, high=1.0)


def test_only_what_lies_downstream_is_computed_again():
    calls = []
    model = linear()
    for step in model.steps:
        run_it = step.run
        object.__setattr__(
            step, "run", lambda *a, f=run_it, n=step.name: (calls.append(n), f(*a))[1]
        )
    base = run(model, pictures(2), queries(2))
    calls.clear()
    resume(base, edits=[shift(RELEVANCE, 1.0)])
    assert calls == ["tokens"]
