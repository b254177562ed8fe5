"""Detail that matters: tokens buy samples, and what was not bought cannot be seen."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrcoc_verify.graph import run
from arrcoc_verify.reference.trained import realising
from arrcoc_verify.reference.trained.realising import CELL, FLOOR, GRID, SIZE


def plane(seed):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(1, 255, (1, 3, SIZE, SIZE), generator=drawn).float()


def spread(tokens):
    return torch.full((1, GRID * GRID), float(tokens))


def test_400_tokens_keep_every_pixel():
    image = plane(0)

    kept = realising.realise(image, spread(400))

    assert torch.equal(realising.to_cells(image) / 255, kept)


def test_64_tokens_are_the_glance_that_knowing_sees():
    image = plane(1)
    seen = realising.glance(image)

    for row, column in ((0, 0), (3, 14), (15, 15)):
        patch = realising.realise(image, spread(64))[0, row * GRID + column]
        blocks = {tuple(value.tolist()) for value in patch.flatten(1).T}
        here = seen[0, :, row * FLOOR : (row + 1) * FLOOR, column * FLOOR : (column + 1) * FLOOR]

        assert blocks == {tuple(value.tolist()) for value in here.flatten(1).T}


@given(st.integers(64, 400), st.integers(0, 1000))
def test_a_patch_has_no_more_different_samples_than_tokens(tokens, seed):
    made = realising.realise(plane(seed), spread(tokens))[0, 17]
    rows, columns = realising.sides(spread(tokens))

    assert len(made.flatten(1).T.unique(dim=0)) <= tokens
    assert int(rows[0, 0] * columns[0, 0]) <= tokens


@given(st.integers(64, 399), st.integers(0, 1000))
def test_what_leaves_every_blocks_sum_as_it_was_changes_no_bit(tokens, seed):
    """Move one grey level from a pixel to another of its block: finer than what was bought."""
    image = plane(seed)
    rows, columns = realising.sides(spread(tokens))
    down = realising.members(image)[int(rows[0, 0])]
    across = realising.members(image)[int(columns[0, 0])]
    block = max(
        (torch.outer(one, two) for one in down for two in across), key=lambda b: float(b.sum())
    )
    (top, left), (low, right) = block.nonzero()[[0, -1]].tolist()
    changed = image.clone()
    changed[0, :, top, left] += 1
    changed[0, :, low, right] -= 1

    assert (top, left) != (low, right)
    assert not torch.equal(image, changed)
    assert torch.equal(
        realising.realise(image, spread(tokens)), realising.realise(changed, spread(tokens))
    )


def test_the_head_cannot_see_beyond_the_resolution_that_was_bought(model, shown, clean):
    """In every patch, exchange two pixels of one block: not one bit of the answer changes.

    The glance's blocks are kept too, so that knowing spends as before.
    """
    from PIL import Image

    sized = [s.image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for s in shown]
    twisted, moved = [], 0
    tokens = clean["attending.tokens"]
    for row, image in enumerate(sized):
        made = image.copy()
        for patch in range(GRID * GRID):
            pair = _same_blocks(int(tokens[row, patch]))
            if pair is None:
                continue
            top, left = patch // GRID * CELL, patch % GRID * CELL
            one, two = ((left + x, top + y) for y, x in pair)
            first, second = made.getpixel(one), made.getpixel(two)
            made.putpixel(one, second)
            made.putpixel(two, first)
            moved += first != second
        twisted.append(made)
    queries = [s.query for s in shown]
    read = ["realising.patches", "realising.answer"]
    before, after = run(model, sized, queries, read=read), run(model, twisted, queries, read=read)

    assert moved > 100
    for site in ("attending.tokens", *read):
        assert torch.equal(before[site], after[site]), site


def _same_blocks(tokens):
    """Return two pixels that lie in one block at these tokens and in one of the glance, if any."""
    rows, columns = realising.sides(torch.tensor([[float(tokens)]]))
    table = realising._members()

    def together(count):
        member, floor = table[int(count)], table[FLOOR]
        return [
            (a, b)
            for a in range(CELL)
            for b in range(a + 1, CELL)
            if float((member[:, a] * member[:, b]).sum())
            and float((floor[:, a] * floor[:, b]).sum())
        ]

    across = together(columns[0, 0])
    if across:
        return (0, across[0][0]), (0, across[0][1])
    down = together(rows[0, 0])
    return ((down[0][0], 0), (down[0][1], 0)) if down else None


def test_the_head_sees_detail_where_it_was_bought(model, shown):
    """The same exchange at 400 tokens does change what is realised: the test above can fail."""
    image = plane(3)
    changed = image.clone()
    changed[0, :, 0, 0] += 1
    changed[0, :, 0, 1] -= 1

    assert not torch.equal(
        realising.realise(image, spread(400)), realising.realise(changed, spread(400))
    )


@pytest.mark.parametrize("tokens", [64, 100, 225, 400])
def test_soft_realising_is_the_hard_one_at_its_levels(tokens):
    image = plane(5)

    soft = realising.soft(image, spread(tokens))

    assert torch.allclose(soft, realising.realise(image, spread(tokens)), atol=1e-6)
