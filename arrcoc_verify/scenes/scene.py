"""A scene: one picture, one query, and what is true about them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arrcoc_verify.errors import BadQuery, BadRegion

Box = tuple[int, int, int, int]
Grid = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """A part of an image: a box, and if known the exact mask of the object in it.

    Args:
        box: `(x, y, width, height)` in pixels of the image, whole and inside it.
        mask: bool `[H, W]` over the whole image, true on the object, or None if unknown.
        label: what is there, in words; may be empty.

    Raises:
        BadRegion: the box is empty or negative, or the mask has another shape or is empty.
    """

    box: Box
    mask: NDArray[np.bool_] | None = None
    label: str = ""

    def __post_init__(self) -> None:
        x, y, width, height = self.box
        if x < 0 or y < 0 or width < 1 or height < 1:
            raise BadRegion(
                f"wanted a box x,y,w,h with x, y >= 0 and w, h >= 1, got {self.box}: "
                "give the left upper corner and the size in pixels"
            )
        if self.mask is None:
            return
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise BadRegion(
                f"wanted a mask of bool [H, W], got {self.mask.dtype} {list(self.mask.shape)}: "
                "compare the picture with a threshold first"
            )
        if not self.mask.any():
            raise BadRegion("wanted a mask with at least one true pixel, got none: check its file")

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the box, to index `[H, W]` arrays."""
        x, y, width, height = self.box
        return slice(y, y + height), slice(x, x + width)

    def check(self, size: tuple[int, int]) -> None:
        """Raises unless the region lies inside an image of `size` (width, height).

        Raises:
            BadRegion: the box leaves the image, or the mask is not as large as the image.
        """
        x, y, width, height = self.box
        if x + width > size[0] or y + height > size[1]:
            raise BadRegion(
                f"wanted a box inside the image of {size[0]}x{size[1]} pixels, got {self.box}, "
                f"which ends at {x + width},{y + height}: is it x,y,w,h and not x0,y0,x1,y1?"
            )
        if self.mask is not None and self.mask.shape != (size[1], size[0]):
            raise BadRegion(
                f"wanted a mask of {size[1]} rows and {size[0]} columns, got "
                f"{list(self.mask.shape)}: resize it like the image"
            )

    def cells(self, grid: Grid, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The cells of a model's grid that the box covers by at least half.

        A region too small to cover half of any cell is the one cell that it covers most.

        Args:
            grid: rows and columns of the model's grid over the whole image.
            size: width and height of the image in pixels.

        Returns:
            bool `[rows * columns]`, row by row.

        Raises:
            BadRegion: the box leaves the image, or the grid is empty.
        """
        self.check(size)
        covered = self.coverage(grid, size)
        enough = covered >= 0.5 - 1e-9
        if not enough.any():
            enough = covered == covered.max()
            enough.ravel()[np.flatnonzero(enough)[1:]] = False
        return np.asarray(enough.ravel())

    def coverage(self, grid: Grid, size: tuple[int, int]) -> NDArray[np.float64]:
        """The share 0..1 of each cell that the box covers, `[rows, columns]`.

        Raises:
            BadRegion: the grid is empty.
        """
        if min(grid) < 1:
            raise BadRegion(f"wanted a grid of at least 1x1 cells, got {grid}")
        x, y, width, height = self.box
        down = _overlap(y, y + height, grid[0], size[1])
        across = _overlap(x, x + width, grid[1], size[0])
        return np.asarray(down[:, None] * across[None, :])


def _overlap(start: int, stop: int, cells: int, length: int) -> NDArray[np.float64]:
    """The share of each of `cells` equal parts of `length` that lies in `[start, stop)`."""
    edges = np.linspace(0.0, length, cells + 1)
    inside = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    return np.asarray(np.clip(inside, 0.0, None) * cells / length)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """What a composed scene was made of, kept so that its objects can change places.

    Args:
        background: the cropped, resized photograph.
        sprites: target and distractor, RGBA, each as large as its block.
        places: row and column of the first cell of each block, target first.
        block: rows and columns of a block in cells.
        grid: the grid that the blocks lie on.
    """

    background: Image.Image
    sprites: tuple[Image.Image, Image.Image]
    places: tuple[tuple[int, int], tuple[int, int]]
    block: Grid
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """One image and query with their truth; nothing in it is ever changed in place.

    Args:
        image: RGB.
        query: asks for the target.
        target: what is asked for.
        distractor: another object, or None.
        other_query: asks for the distractor, or None if there is none.
        paraphrase: asks for the target in other words.
        absent_query: asks for something that is not there.
        nonsense: as long as the query, means nothing.
        unit: the source photograph.
        cluster: what independent units are nested in; statistics count clusters.
        role: train, select, donor, assert or repair-confirm.
        name: unique among the scenes of a run.
        parts: how the scene was composed; None for a natural one.

    Raises:
        BadRegion: a region lies outside the image.
        BadQuery: the query is empty, or there is a distractor that nothing asks for.
    """

    image: Image.Image
    query: str
    target: Region
    distractor: Region | None = None
    other_query: str | None = None
    paraphrase: str = ""
    absent_query: str = ""
    nonsense: str = ""
    unit: str
    cluster: str
    role: str
    name: str
    parts: Parts | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.image.mode != "RGB":
            object.__setattr__(self, "image", self.image.convert("RGB"))
        if not self.query.strip():
            raise BadQuery(f"wanted words that ask for the target of {self.name}, got none")
        self.target.check(self.image.size)
        if self.distractor is not None:
            self.distractor.check(self.image.size)
            if not (self.other_query or "").strip():
                raise BadQuery(f"wanted words that ask for the distractor of {self.name}, got none")

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """A fresh copy of the image as `[H, W, 3]`, 0..255."""
        return np.array(self.image, dtype=np.uint8)
