"""Maps that lie where they should not: each patch is given what stands at another place."""

from collections.abc import Callable, Mapping

from torch import Tensor

from arrcoc_verify.debug.bench import flat_map, native
from arrcoc_verify.model import Site

MOVES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mirrored": lambda plane: plane.flip(2),
    "turned upside down": lambda plane: plane.flip(1),
    "turned by half a circle": lambda plane: plane.flip(1, 2),
    "with rows and columns exchanged": lambda plane: plane.transpose(1, 2),
    "moved by half the picture": lambda plane: plane.roll(
        (plane.shape[1] // 2, plane.shape[2] // 2), (1, 2)
    ),
}
"""Name -> what makes of `[image, row, column]` the map that it is a displaced copy of."""


def moves_of(grid: tuple[int, int]) -> list[str]:
    """Return the names of the moves that keep a grid's shape."""
    square = grid[0] == grid[1]
    return [name for name in MOVES if square or "exchanged" not in name]


def moved(old: Tensor, site: Site, grid: tuple[int, int], name: str) -> Tensor:
    """Return an activation of one number a patch, moved, in the site's own layout."""
    plane = MOVES[name](flat_map(old, site, grid).reshape(-1, *grid))
    return native(plane.flatten(1), site, old, grid)
