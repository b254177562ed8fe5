"""The balanced factorial: information x salience x query x position on the target.

Only a balanced design can show interactions and share out variance; pairs cannot.

Source: Montgomery, Design and Analysis of Experiments
(2^k factorial designs).
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arrcoc_verify.scenes.compose import swap_positions
from arrcoc_verify.scenes.edits import edit_information, salience_shift, shift_cells
from arrcoc_verify.scenes.scene import Grid, Scene

FACTORS: tuple[str, ...] = ("information", "salience", "query", "position")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One cell of a factorial: a scene and its levels, each 0 (low) or 1 (high).

    Args:
        scene: image, query and regions of this cell; `target` is the measured region throughout.
        base: name of the scene that the factorial was made of.
        information: 2 or 16 grey levels.
        salience: the target's mean luminance is that of its surround, or stands out.
        query: the distractor is asked for, or the target.
        position: target and distractor in each other's place, or as composed.
    """

    scene: Scene
    base: str
    information: int
    salience: int
    query: int
    position: int

    @property
    def levels(self) -> tuple[int, int, int, int]:
        """The four levels in the order of `FACTORS`."""
        return self.information, self.salience, self.query, self.position


def factorial(scene: Scene, *, grid: Grid = (16, 16), seed: int = 0) -> list[Cell]:
    """All cells of a scene's factorial, last factor fastest.

    A composed scene gives 16. Without a distractor the query factor is left out, in a natural scene
    the position factor (its objects cannot be moved); that factor then stays at 1.

    Args:
        scene: a scene that was not edited.
        grid: rows and columns of the model's grid.
        seed: decides the texture's noise.

    Raises:
        BadRegion: the grid has more cells than the image has pixels.
    """
    placed = {1: scene}
    if scene.parts is not None:
        placed[0] = swap_positions(scene)
    edited = {}
    for position, at in placed.items():
        cells = at.target.cells(grid, at.image.size)
        textured = [edit_information(at, level, grid=grid, seed=seed) for level in (0.0, 1.0)]
        for salience in (0, 1):
            # One shift for both textures, found on the one that reaches farther.
            shift = salience_shift(textured[1], float(salience), cells, grid)
            for information in (0, 1):
                shifted = shift_cells(textured[information], shift, cells, grid)
                edited[information, salience, position] = shifted
    queries = {1: scene.query} | ({0: scene.other_query} if scene.other_query else {})
    made = []
    for levels in itertools.product((0, 1), repeat=4):
        information, salience, query, position = levels
        image = edited.get((information, salience, position))
        words = queries.get(query)
        if image is not None and words is not None:
            name = f"{scene.name}/{''.join(map(str, levels))}"
            made.append(
                Cell(
                    scene=dataclasses.replace(image, query=words, name=name),
                    base=scene.name,
                    information=information,
                    salience=salience,
                    query=query,
                    position=position,
                )
            )
    return made


def design(cells: Sequence[Cell]) -> NDArray[np.float64]:
    """The levels as -1 and +1, `[cell, factor]`, in the order of `FACTORS`."""
    return np.array([[2.0 * level - 1.0 for level in cell.levels] for cell in cells])


def matched(cells: Sequence[Cell], factor: str) -> list[tuple[Cell, Cell]]:
    """Cells (low, high) of one scene that differ in one factor only."""
    index = FACTORS.index(factor)
    by_key: dict[tuple[str, tuple[int, ...]], dict[int, Cell]] = {}
    for cell in cells:
        rest = cell.levels[:index] + cell.levels[index + 1 :]
        by_key.setdefault((cell.base, rest), {})[cell.levels[index]] = cell
    return [(two[0], two[1]) for two in by_key.values() if len(two) == 2]
