"""Edits: what one may hold, and that batches never change what an image gets."""

import pytest
import torch

from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.graph import Edit, resume, run
from tests.unit.small_models import linear, pictures, queries, region

SITE = "balancing.relevance"


def test_an_edit_holds_exactly_one_of_write_value_and_draw():
    with pytest.raises(UsageError, match="exactly one of"):
        Edit(site=SITE)
    with pytest.raises(UsageError, match="exactly one of"):
        Edit(site=SITE, write=torch.zeros_like, value=torch.zeros(1))


def test_a_mask_without_a_patch_is_refused():
    with pytest.raises(UsageError, match="selects no patch"):
        Edit(site=SITE, write=torch.zeros_like, where=region(1))


@pytest.mark.parametrize("held", ["value", "where"])
def test_an_edit_made_for_another_number_of_images_is_refused_not_cut(held):
    base = run(linear(), pictures(4), queries(4), batch_size=2)
    made = {"value": torch.ones(4, 4)} | ({"value": torch.ones(3, 4)} if held == "value" else {})
    made |= {"where": region(3, 0)} if held == "where" else {}
    with pytest.raises(ShapeMismatch, match=f"`{held}` is for 3 images, the run has 4"):
        resume(base, edits=[Edit(site=SITE, **made)])


def test_a_write_in_place_is_refused():
    base = run(linear(), pictures(2), queries(2))
    with pytest.raises(UsageError, match="wrote in place"):
        resume(base, edits=[Edit(site=SITE, write=lambda old: old.mul_(2))])


def test_a_value_takes_the_type_of_the_activation_it_replaces():
    base = run(linear(), pictures(2), queries(2))
    value = torch.ones(2, 4, dtype=torch.float32)
    after = resume(base, edits=[Edit(site=SITE, value=value)])
    assert after[SITE].dtype == base[SITE].dtype
    assert after["attending.tokens"].dtype == base["attending.tokens"].dtype


def test_what_was_written_in_the_base_stays_written_when_its_step_is_made_again():
    base = run(linear(), pictures(3), queries(3))
    held = resume(base, edits=[Edit(site=SITE, write=lambda old: old + 7, where=region(1, 0))])
    both = resume(held, edits=[Edit(site="knowing.features", write=lambda old: 2 * old)])
    expected = 2 * base[SITE]
    expected[:, 0] += 7
    torch.testing.assert_close(both[SITE], expected, rtol=0, atol=0)


@pytest.mark.parametrize("transient", [False, True])
def test_edits_one_after_the_other_equal_both_at_once(transient):
    model = linear(transient=transient)
    first = Edit(site="knowing.features", write=lambda old: old + 1)
    second = Edit(site="balancing.relevance", write=lambda old: old * 3)
    base = run(model, pictures(3), queries(3))
    at_once = resume(base, edits=[first, second])
    in_turn = resume(resume(base, edits=[first]), edits=[second])
    reversed_order = resume(resume(base, edits=[second]), edits=[first])
    assert torch.equal(at_once["attending.tokens"], in_turn["attending.tokens"])
    assert torch.equal(at_once["attending.tokens"], reversed_order["attending.tokens"])


def test_the_largest_change_of_an_edit_is_recorded():
    base = run(linear(), pictures(2), queries(2))
    after = resume(base, edits=[Edit(site=SITE, write=lambda old: old + 2.5)])
    assert after.changed == {SITE: pytest.approx(2.5)}
