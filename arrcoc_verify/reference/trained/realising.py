"""Realising: each patch is represented with exactly as many samples as its tokens buy.

A patch of 20 x 20 pixels with t tokens is cut into r rows and c columns of blocks, r the whole root
of t and c = t // r, at least 8 x 8; each block is replaced by the mean of its pixels. 400 tokens
keep every pixel, 64 keep 8 x 8 means. Sums run over whole numbers and are exact in float32, so a
change of pixels that leaves every block's sum as it was changes no bit.
"""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

GRID, CELL = 16, 20
"""Rows and columns of patches, and a patch's side in pixels."""
SIZE = GRID * CELL
FLOOR = 8
"""Blocks a side of a patch with the fewest tokens."""
LEVELS = (8, 10, 12, 15, 20)
"""Sides between which `soft` blends, so that a task can teach the allocation."""
GLANCE = GRID * FLOOR
"""Side of the low-resolution picture that knowing sees: what the fewest tokens buy everywhere."""


@functools.cache
def _members() -> Tensor:
    """Return `[sides, block, pixel]`: which of 20 pixels lie in which of n blocks, n = 0..20."""
    member = torch.zeros(CELL + 1, CELL, CELL)
    for count in range(1, CELL + 1):
        edges = torch.linspace(0, CELL, count + 1).round().long()
        for block in range(count):
            member[count, block, edges[block] : edges[block + 1]] = 1
    return member


def members(like: Tensor) -> Tensor:
    """Return the membership table on the device and in the type of `like`."""
    return _members().to(like)


def to_cells(image: Float[Tensor, "image channel height width"]) -> Tensor:
    """Return `[image, patch, channel, 20, 20]`."""
    b, c = image.shape[:2]
    split = image.reshape(b, c, GRID, CELL, GRID, CELL)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, GRID * GRID, c, CELL, CELL)


def glance(pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 128 128"]:
    """Return RGB in 0..1 at 8 x 8 blocks a patch."""
    rows = members(pixels)[FLOOR, :FLOOR]
    sums = torch.einsum("ip,bncpq,jq->bncij", rows, to_cells(pixels), rows)
    means = sums / (rows.sum(1)[:, None] * rows.sum(1)) / 255
    b, c = pixels.shape[:2]
    grid = means.reshape(b, GRID, GRID, c, FLOOR, FLOOR).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(b, c, GLANCE, GLANCE)


def sides(tokens: Float[Tensor, "image patch"]) -> tuple[Tensor, Tensor]:
    """Return rows and columns of blocks that these tokens buy; never more than they pay for."""
    rows = (tokens + 1e-6).sqrt().floor().long().clamp(FLOOR, CELL)
    columns = (tokens / rows + 1e-6).floor().long().clamp(FLOOR, CELL)
    return rows, columns


def realise(pixels: Float[Tensor, "image 3 height width"], tokens: Tensor) -> Tensor:
    """Return `[image, patch, 3, 20, 20]` in 0..1: block means at the detail that was bought.

    Args:
        pixels: RGB as whole numbers 0..255 in a floating type.
        tokens: `[image, patch]`, 64..400.
    """
    rows, columns = sides(tokens)
    table = members(pixels)
    down, across = table[rows], table[columns]
    cells = to_cells(pixels)
    sums = torch.einsum("bnip,bncpq,bnjq->bncij", down, cells, across)
    count = torch.einsum("bni,bnj->bnij", down.sum(3), across.sum(3)).clamp(min=1)
    means = sums / count[:, :, None] / 255
    return torch.einsum("bnip,bncij,bnjq->bncpq", down, means, across)


def soft(pixels: Tensor, lod: Tensor) -> Tensor:
    """Return patches realised between two levels, differentiable in the tokens; for training."""
    side = lod.sqrt().to(pixels)
    previous = LEVELS[0]
    made = realise(pixels, torch.full_like(side, float(previous**2)))
    for level in LEVELS[1:]:
        here = realise(pixels, torch.full_like(side, float(level**2)))
        part = ((side - previous) / (level - previous)).clamp(0, 1)[..., None, None, None]
        made, previous = made + part * (here - made), level
    return made
