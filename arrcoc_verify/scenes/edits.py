"""Edits of luminance in whole cells that move one factor of a region and hold the others.

Only luma is edited: a pixel's red, green and blue get the same whole-number shift, so the
differences between its channels, and with them its chroma, stay exactly as they were.

Sources: entropy as information after Bruce & Tsotsos (2009),
contrast to the surround as salience after Itti, Koch & Niebur (1998).
"""

import dataclasses
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d

from arrcoc_verify.errors import BadRegion, UsageError
from arrcoc_verify.scenes.colour import RANGE, luma
from arrcoc_verify.scenes.scene import Grid, Region, Scene

Cells = NDArray[np.bool_]
Field = NDArray[np.float64]

BLOCKS = 8  # a cell's texture has at most 8x8 blocks
LEVELS = 16  # grey levels at the highest dose: 1 to 4 bits, about 4 grey values apart
TEXTURE = 18.0  # standard deviation of the texture in grey levels, the same at every dose
CONTRAST = 40.0  # distance of the region's mean from its surround's at salience 1
SHADING = 0.25  # how much of the differences between the cells' means is kept
STRUCTURE = 0.5  # how much of the texture follows the picture; the rest is noise
# A uniform distribution reaches sqrt(3) standard deviations.
REACH = TEXTURE * 3**0.5


def cell_edges(length: int, cells: int) -> NDArray[np.intp]:
    """The pixels at which the cells of one axis begin and end, `[cells + 1]`."""
    return np.rint(np.linspace(0, length, cells + 1)).astype(np.intp)


def cell_map(grid: Grid, size: tuple[int, int]) -> NDArray[np.intp]:
    """The index of the cell that each pixel belongs to, `[H, W]`.

    Raises:
        BadRegion: the grid has more cells than the image has pixels.
    """
    if grid[0] > size[1] or grid[1] > size[0]:
        raise BadRegion(f"wanted at most {size[1]}x{size[0]} cells, got a grid {grid}")
    rows = np.repeat(np.arange(grid[0]), np.diff(cell_edges(size[1], grid[0])))
    columns = np.repeat(np.arange(grid[1]), np.diff(cell_edges(size[0], grid[1])))
    return np.asarray(rows[:, None] * grid[1] + columns[None, :])


def pixels_of(cells: Cells, grid: Grid, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of the chosen cells, bool `[H, W]`."""
    return np.asarray(cells[cell_map(grid, size)])


def ring(cells: Cells, grid: Grid, exclude: Cells | None = None) -> Cells:
    """The cells next to the chosen ones, corners included, without the excluded ones."""
    inside = np.pad(cells.reshape(grid), 1)
    near = np.zeros(grid, dtype=np.bool_)
    for down in range(3):
        for across in range(3):
            near |= inside[down : down + grid[0], across : across + grid[1]]
    around = near.ravel() & ~cells
    kept = around & ~exclude if exclude is not None else around
    return np.asarray(kept if kept.any() else around)


def edge_energy(values: Field) -> Field:
    """Squared gradient magnitude of the Scharr operator (3, 10, 3)/16, per pixel."""
    smooth, slope = np.array([3.0, 10.0, 3.0]) / 16, np.array([-0.5, 0.0, 0.5])
    down = correlate1d(correlate1d(values, slope, axis=0), smooth, axis=1)
    across = correlate1d(correlate1d(values, slope, axis=1), smooth, axis=0)
    return np.asarray(down**2 + across**2)


def edit_information(
    scene: Scene,
    level: float,
    *,
    grid: Grid = (16, 16),
    where: Cells | Region | None = None,
    seed: int = 0,
) -> Scene:
    """Sets the entropy of a region's luminance at equal mean, variance and edge energy.

    Each cell gets a texture that follows the picture. Its blocks take 2 grey levels at level 0
    and 16 at level 1: from 1 to 4 bits.

    Args:
        scene: any scene; chroma is kept.
        level: dose from 0 to 1; bits grow evenly with it.
        grid: rows and columns of the model's grid.
        where: cells `[rows * columns]` or a region; the scene's target if not given.
        seed: decides the noise, together with the scene's name.

    Raises:
        UsageError: the level is outside 0..1.
        BadRegion: no cell is chosen, or there are more cells than pixels.
    """
    cells = _cells(scene, grid, where)
    level = _dose(level)
    return _with(scene, _textured(scene, cells, grid, level, seed))


def edit_salience(
    scene: Scene,
    level: float,
    *,
    grid: Grid = (16, 16),
    where: Cells | Region | None = None,
) -> Scene:
    """Sets the contrast of a region's mean luminance to its surround by a pure offset.

    At level 0 the region's mean is that of the ring of cells around it, at level 1 it differs by
    40 grey levels, towards the side with more room. Texture, entropy and chroma stay (see
    `make_room` for pictures without room).

    Args:
        scene: any scene.
        level: dose from 0 to 1.
        grid: rows and columns of the model's grid.
        where: cells `[rows * columns]` or a region; the scene's target if not given.

    Raises:
        UsageError: the level is outside 0..1.
        BadRegion: no cell is chosen, or there are more cells than pixels.
    """
    cells = _cells(scene, grid, where)
    level = _dose(level)
    scene = make_room(scene, cells, grid)
    return shift_cells(scene, salience_shift(scene, level, cells, grid), cells, grid)


def salience_shift(scene: Scene, level: float, cells: Cells, grid: Grid) -> int:
    """The whole grey levels by which `edit_salience` moves the cells, as far as there is room."""
    least, most = _room(scene, cells, grid)
    return int(np.clip(_wanted(scene, level, cells, grid), least, most))


def make_room(scene: Scene, cells: Cells, grid: Grid) -> Scene:
    """The scene, with less luminance contrast in the cells if an offset would clip them.

    Composed scenes have room. In a natural picture the luma of the cells is drawn towards middle
    grey by half; whether that sufficed is for `isolation` to say.
    """
    least, most = _room(scene, cells, grid)
    if all(least <= _wanted(scene, level, cells, grid) <= most for level in (0.0, 1.0)):
        return scene
    pixels = scene.pixels.astype(np.int64)
    inside = pixels_of(cells, grid, scene.image.size)
    shift = np.rint((127.5 - luma(pixels)) * (1 - RANGE / 127.5)).astype(np.int64)
    return _with(scene, _shifted(pixels, shift * inside))


def shift_cells(scene: Scene, shift: int, cells: Cells, grid: Grid) -> Scene:
    """The scene with one shift of all channels in the chosen cells; pixels stop at 0 and 255."""
    inside = pixels_of(cells, grid, scene.image.size)
    return _with(scene, _shifted(scene.pixels.astype(np.int64), shift * inside.astype(np.int64)))


def _room(scene: Scene, cells: Cells, grid: Grid) -> tuple[int, int]:
    """How far down and up the cells can be shifted before more than 1 % of their pixels clip."""
    inside = pixels_of(cells, grid, scene.image.size)
    pixels = scene.pixels[inside]
    dark, light = np.quantile(pixels.min(-1), 0.01), np.quantile(pixels.max(-1), 0.99)
    return -int(np.floor(dark)), int(255 - np.ceil(light))


def _wanted(scene: Scene, level: float, cells: Cells, grid: Grid) -> int:
    inside = pixels_of(cells, grid, scene.image.size)
    around = pixels_of(ring(cells, grid, _other(scene, cells, grid)), grid, scene.image.size)
    light = luma(scene.pixels)
    to_surround = float(light[around].mean() if around.any() else 128.0) - light[inside].mean()
    least, most = _room(scene, cells, grid)
    # The side is chosen for the full dose, so that all doses lie on one line.
    up = most - to_surround >= to_surround - least
    return round(float(to_surround + level * CONTRAST * (1 if up else -1)))


def _shifted(pixels: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """All channels of a pixel moved equally, and no farther than the nearest end of the range."""
    kept = np.clip(shift, -pixels.min(-1), 255 - pixels.max(-1))
    return np.asarray(pixels + kept[..., None])


def _cells(scene: Scene, grid: Grid, where: Cells | Region | None) -> Cells:
    if where is None or isinstance(where, Region):
        return (where or scene.target).cells(grid, scene.image.size)
    if where.shape != (grid[0] * grid[1],) or where.dtype != np.bool_ or not where.any():
        raise BadRegion(
            f"wanted bool cells [{grid[0] * grid[1]}] with at least one true, got {where.dtype} "
            f"{list(where.shape)} with {int(np.count_nonzero(where))} true"
        )
    return where


def _dose(level: float) -> float:
    if not 0.0 <= level <= 1.0:
        raise UsageError(f"wanted a level from 0 to 1, got {level}")
    return float(level)


def _other(scene: Scene, cells: Cells, grid: Grid) -> Cells | None:
    """The cells of the object that is not edited; it is no part of the surround."""
    for region in (scene.distractor, scene.target):
        if region is not None:
            taken = region.cells(grid, scene.image.size)
            if not (taken & cells).any():
                return taken
    return None


def _with(scene: Scene, pixels: NDArray[np.int64]) -> Scene:
    return dataclasses.replace(scene, image=Image.fromarray(pixels.astype(np.uint8)), parts=None)


def _textured(scene: Scene, cells: Cells, grid: Grid, level: float, seed: int) -> NDArray[np.int64]:
    """The pixels with a texture of the given dose in the chosen cells."""
    pixels = scene.pixels.astype(np.int64)
    before = luma(pixels)
    blocks = _Blocks.of(cells, grid, scene.image.size)
    base = np.where(blocks.inside, blocks.spread(_carrier(pixels, before, blocks)), before)
    picture = blocks.mean(before)
    picture = picture - picture.mean(1, keepdims=True)
    # Flat cells have no structure worth following: 4 grey levels count as little.
    picture = picture / (picture.std(1, keepdims=True) + 4.0)
    generator = np.random.default_rng([seed, zlib.crc32(scene.name.encode())])
    noise = generator.standard_normal(picture.shape)

    def at(dose: float, structure: float) -> Field:
        driver = structure * picture + (1.0 - structure) * noise
        return base + blocks.spread(_texture(driver, dose, blocks.weight))

    near = _window(blocks.inside)
    inside = blocks.inside[near]

    def energy(values: Field) -> float:
        return float(edge_energy(values[near])[inside].mean())

    # Two levels have steeper edges than many; many follow the picture a little less, and by
    # exactly so much that the edge energy is that of two levels.
    structure = STRUCTURE
    if level > 0:
        wanted = energy(at(0.0, STRUCTURE))
        shares = np.linspace(0.0, STRUCTURE, 26)
        off = [abs(energy(at(level, float(share))) - wanted) for share in shares]
        structure = float(shares[int(np.argmin(off))])
    shift = np.rint(at(level, structure) - before).astype(np.int64)
    return _shifted(pixels, shift * blocks.inside)


def _window(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The least rows and columns that hold all chosen pixels and their neighbours."""
    ends = []
    for axis in (1, 0):
        (chosen,) = np.nonzero(inside.any(axis))
        ends.append(slice(max(int(chosen[0]) - 1, 0), int(chosen[-1]) + 2))
    return ends[0], ends[1]


def _texture(driver: Field, dose: float, weight: Field) -> Field:
    """Grey levels `[cell, block]` with mean 0 and the same variance at every dose.

    Blocks are ranked inside their cell and split into equal groups, one grey level each.
    """
    count = driver.shape[1]
    if count < 2:
        return np.zeros_like(driver)
    levels = round(2.0 ** (1.0 + (np.log2(min(count, LEVELS)) - 1.0) * dose))
    ranks = driver.argsort(1).argsort(1)
    values = np.floor(ranks * levels / count)
    values = values - (values * weight).sum(1, keepdims=True)
    spread = np.sqrt((values**2 * weight).sum(1, keepdims=True))
    return np.asarray(values * (TEXTURE / spread))


def _carrier(pixels: NDArray[np.int64], before: Field, blocks: "_Blocks") -> Field:
    """The mean that each cell's texture is added to, the same at every dose, `[cell, 1]`."""
    mean = (blocks.mean(before) * blocks.weight).sum(1, keepdims=True)
    mean = mean.mean() + SHADING * (mean - mean.mean())
    chroma = pixels - before[..., None]
    least = blocks.extreme(-chroma.min(-1)) + REACH
    most = 255.0 - blocks.extreme(chroma.max(-1)) - REACH
    return np.asarray(np.clip(mean, np.minimum(least, most), np.maximum(least, most)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """The blocks of the chosen cells: which pixel belongs to which.

    Args:
        inside: pixels of the chosen cells, `[H, W]`.
        index: for each pixel inside, `cell * blocks + block`, in the order of `inside`.
        shape: number of chosen cells, blocks in each.
        weight: share of its cell's pixels that a block has, `[cell, block]`.
    """

    inside: NDArray[np.bool_]
    index: NDArray[np.intp]
    shape: tuple[int, int]
    weight: Field

    @classmethod
    def of(cls, cells: Cells, grid: Grid, size: tuple[int, int]) -> "_Blocks":
        """The blocks of the chosen cells of an image."""
        down, rows = _block_rows(size[1], grid[0])
        across, columns = _block_rows(size[0], grid[1])
        inside = pixels_of(cells, grid, size)
        chosen = np.cumsum(cells) - 1
        cell = chosen[cell_map(grid, size)]
        index = (cell * rows + down[:, None]) * columns + across[None, :]
        shape = int(cells.sum()), rows * columns
        flat = index[inside]
        count = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        weight = count / count.sum(1, keepdims=True)
        return cls(inside=inside, index=flat, shape=shape, weight=weight)

    def mean(self, values: Field) -> Field:
        """The mean of each block, `[cell, block]`."""
        count = np.bincount(self.index, minlength=self.weight.size)
        total = np.bincount(self.index, values[self.inside], minlength=self.weight.size)
        return np.asarray((total / np.maximum(count, 1)).reshape(self.shape))

    def extreme(self, values: Field) -> Field:
        """The largest value of each cell, `[cell, 1]`."""
        largest = np.full(self.shape[0], -np.inf)
        np.maximum.at(largest, self.index // self.shape[1], values[self.inside])
        return largest[:, None]

    def spread(self, values: Field) -> Field:
        """An image `[H, W]` with each block's (or cell's) value in its pixels and 0 elsewhere."""
        image = np.zeros(self.inside.shape)
        image[self.inside] = np.broadcast_to(values, self.shape).ravel()[self.index]
        return image


def _block_rows(length: int, cells: int) -> tuple[NDArray[np.intp], int]:
    """For each pixel of one axis its block inside its cell, and the number of blocks of a cell."""
    edges = cell_edges(length, cells)
    sizes = np.diff(edges)
    count = int(min(BLOCKS, sizes.min()))
    offset = np.arange(length) - np.repeat(edges[:-1], sizes)
    return np.asarray(offset * count // np.repeat(sizes, sizes)), count
