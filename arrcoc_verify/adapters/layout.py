"""Say what each axis of an activation is, from its shape, the grid and its role; or refuse.

Shapes are guessed only where one reading fits: `[B, h, w]` and `[B, N]` are maps, `[B, N, C]`,
`[B, h, w, C]` and `[B, C, h, w]` vectors a patch. Where two fit, the author must say.
"""

import math

BY_IMAGE = ("query", "tensions", "weights", "reported_weights", "reported_tensions")
"""Roles whose second axis is never a patch, whatever its size."""
BY_PATCH = (
    "information", "salience", "query_relevance", "mix", "relevance",
    "demand", "lod", "tokens", "membership",
)  # fmt: skip
"""Roles that hold one number a patch."""


def readings(
    shape: tuple[int, ...], grid: tuple[int, int], pixels: tuple[int, int], role: str | None
) -> list[tuple[str, ...]]:
    """Return every reading of a shape `[image, ...]` as names of axes, the likeliest first.

    Args:
        shape: of the activation, batch axis included.
        grid: rows and columns of patches.
        pixels: height and width of the picture.
        role: what the site is to the suite, or None.
    """
    rest, patches = shape[1:], math.prod(grid)
    found: list[tuple[str, ...]] = []
    if rest == ():
        found = [()]
    elif len(rest) == 1:
        found = [("patch",)] if rest[0] == patches and role not in BY_IMAGE else [("channel",)]
    elif len(rest) == 2:
        found = _planes(rest, grid, patches)
    elif len(rest) == 3:
        found = _volumes(rest, grid, pixels)
    if role in BY_PATCH:
        found = [axes for axes in found if "patch" in axes or "row" in axes]
    return [("image", *axes) for axes in found]


def _planes(rest: tuple[int, ...], grid: tuple[int, int], patches: int) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    if rest == grid:
        found.append(("row", "column"))
    if rest[0] == patches:
        found.append(("patch", "channel"))
    if rest[1] == patches:
        found.append(("channel", "patch"))
    return found or [("token", "channel")]


def _volumes(
    rest: tuple[int, ...], grid: tuple[int, int], pixels: tuple[int, int]
) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    if rest[:2] == grid:
        found.append(("row", "column", "channel"))
    if rest[1:] == grid:
        found.append(("channel", "row", "column"))
    if not found and rest[1:] == pixels:
        found.append(("channel", "height", "width"))
    return found
