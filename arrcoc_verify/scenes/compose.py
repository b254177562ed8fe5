"""Composed scenes: two cut-out objects on whole cells of a photograph, so the truth is known."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arrcoc_verify.errors import BadRegion, UsageError
from arrcoc_verify.scenes import fixtures, queries
from arrcoc_verify.scenes.colour import TINTS, compress, fade, tint
from arrcoc_verify.scenes.scene import Grid, Parts, Region, Scene

Place = tuple[int, int]
Places = tuple[Place, Place]
BLOCK = 0.3  # side of an object's block, as a share of the image's side
MARGIN = 0.06  # free border around the object inside its block
FADED = 0.5  # share of a background's chroma that is kept, so that coloured objects are told apart


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A picture that takes part in a scene: a background photograph or a cut-out object."""

    image: Image.Image
    label: str
    id: str


def compose(
    background: Layer,
    target: Layer,
    distractor: Layer,
    *,
    grid: Grid = (16, 16),
    size: int = 256,
    seed: int = 0,
) -> Scene:
    """A scene with two objects in separate blocks of whole cells.

    Each object is coloured, target and distractor differently, and queries name colour and kind:
    what is asked for is then known by two cues and by construction. Luma lies within 128 +- 64, so
    that later edits cannot clip.

    Args:
        background: any photograph; its middle square is used.
        target: an RGBA cut-out, asked for by the scene's query.
        distractor: an RGBA cut-out, asked for by `other_query`.
        grid: rows and columns of the model's grid.
        size: side of the square scene in pixels.
        seed: decides the places (see `move`) and the words.

    Raises:
        BadRegion: a cell is not a whole number of pixels, or two blocks do not fit.
    """
    block = block_of(grid, size)
    generator = np.random.default_rng(seed)
    corners = corners_of(grid, block)
    first = corners[int(generator.integers(len(corners)))]
    pixels = tuple(side * size // cells for side, cells in zip(block, grid, strict=True))
    hues = [str(name) for name in generator.permutation(sorted(TINTS))[:2]]
    names = [f"{hue} {one.label}" for hue, one in zip(hues, (target, distractor), strict=True)]
    parts = Parts(
        background=_square(background.image, size),
        sprites=(
            _sprite(target.image, pixels, hues[0]),
            _sprite(distractor.image, pixels, hues[1]),
        ),
        places=(first, _partner(first, grid, block, generator)),
        block=block,
        grid=grid,
    )
    image, regions = _paint(parts, (names[0], names[1]))
    template = int(generator.integers(len(queries.TEMPLATES)))
    query = queries.ask(names[0], template)
    return Scene(
        image=image,
        query=query,
        target=regions[0],
        distractor=regions[1],
        other_query=queries.ask(names[1], template),
        paraphrase=queries.paraphrase(target.label, template, hues[0]),
        absent_query=queries.ask_absent(generator, template),
        nonsense=queries.nonsense(query, generator),
        unit=background.id,
        cluster=f"{target.id}+{distractor.id}",
        role="assert",
        name=f"{background.id}/{target.id}+{distractor.id}/{seed}",
        parts=parts,
    )


def move(scene: Scene, places: Places) -> Scene:
    """The same scene with its objects elsewhere; nothing else changes.

    Args:
        scene: a composed scene; edits made to its image are lost.
        places: row and column of the first cell of each block, target first.

    Raises:
        BadRegion: the scene is not a composed one, or the places overlap or leave the grid.
    """
    if scene.parts is None or scene.distractor is None:
        raise BadRegion(
            f"wanted a composed scene, got {scene.name}, whose objects cannot be moved: "
            "make scenes with compose() or scenes()"
        )
    grid, block = scene.parts.grid, scene.parts.block
    if not set(places) <= set(corners_of(grid, block)) or _gap(*places, block) < 0:
        raise BadRegion(
            f"wanted two separate blocks of {block[0]}x{block[1]} cells inside the grid {grid}, "
            f"got places {places}: give the row and column of each block's first cell"
        )
    parts = dataclasses.replace(scene.parts, places=places)
    image, regions = _paint(parts, (scene.target.label, scene.distractor.label))
    return dataclasses.replace(
        scene, image=image, target=regions[0], distractor=regions[1], parts=parts
    )


def swap_positions(scene: Scene) -> Scene:
    """The same scene with target and distractor in each other's place.

    Raises:
        BadRegion: the scene is not a composed one.
    """
    if scene.parts is None:
        raise BadRegion(f"wanted a composed scene to swap, got {scene.name}: use compose()")
    first, second = scene.parts.places
    return move(scene, (second, first))


def scenes(
    role: str,
    *,
    grid: Grid = (16, 16),
    size: int = 256,
    per_cluster: int = 3,
    seed: int = 0,
    backgrounds: Literal["fixtures"] | Sequence[Layer] = "fixtures",
) -> list[Scene]:
    """All scenes of one role: each pair of cut-outs on each of its own backgrounds.

    Which of the two is the target alternates; the places of targets are spread over the image.

    Args:
        role: train, select, donor, assert or repair-confirm.
        grid: rows and columns of the model's grid.
        size: side of the square scenes in pixels.
        per_cluster: at most so many backgrounds of each pair.
        seed: decides places and words.
        backgrounds: the fixtures', or a user's own, which are dealt to the pairs in turn.

    Raises:
        UnknownName: there is no such role.
        UsageError: no background was given, or `per_cluster` is below 1.
    """
    if per_cluster < 1:
        raise UsageError(f"wanted per_cluster of at least 1, got {per_cluster}")
    known = fixtures.check_role(role)
    pairs = fixtures.manifest().pairs(known)
    own = _deal(backgrounds, list(pairs))
    block = block_of(grid, size)
    spread = _spread_places(grid, block, seed)
    made: list[Scene] = []
    for number, (pair, two) in enumerate(pairs.items()):
        layers = [Layer(image=fixtures.cutout(c.id), label=c.label, id=c.id) for c in two]
        for index, background in enumerate(own[pair][:per_cluster]):
            order = layers if (number + index) % 2 == 0 else layers[::-1]
            own_seed = _child(seed, len(made))
            scene = compose(background, *order, grid=grid, size=size, seed=own_seed)
            scene = move(scene, spread[len(made) % len(spread)])
            name = f"{role}/{pair}/{background.id}"
            made.append(dataclasses.replace(scene, cluster=pair, role=known, name=name))
    return made


def block_of(grid: Grid, size: int) -> Grid:
    """Rows and columns, in cells, of the block that an object takes: about 0.3 of the image.

    Raises:
        BadRegion: a cell is not a whole number of pixels, or two blocks do not fit.
    """
    if min(grid) < 1 or size % grid[0] or size % grid[1]:
        least = math.lcm(*(max(side, 1) for side in grid))
        fits = max(size // least, 1) * least
        raise BadRegion(
            f"wanted cells of whole pixels, got a grid of {grid[0]}x{grid[1]} over {size} pixels: "
            f"choose a size that both divide, such as {fits}"
        )
    if grid[0] * grid[1] < 2:
        raise BadRegion("wanted a grid with room for two objects, got 1x1")
    rows, columns = (max(1, round(BLOCK * side)) for side in grid)
    return rows, columns


def corners_of(grid: Grid, block: Grid) -> list[Place]:
    """The first cell of every block that lies inside the grid, row by row."""
    return list(itertools.product(range(grid[0] - block[0] + 1), range(grid[1] - block[1] + 1)))


def _gap(one: Place, two: Place, block: Grid) -> int:
    """Free cells between two blocks; negative if they overlap."""
    return max(abs(one[0] - two[0]) - block[0], abs(one[1] - two[1]) - block[1])


def _partner(first: Place, grid: Grid, block: Grid, generator: np.random.Generator) -> Place:
    """A place for the other block, with a free cell between the two wherever there is room."""
    corners = corners_of(grid, block)
    for gap in (1, 0):
        found = [other for other in corners if _gap(first, other, block) >= gap]
        if found:
            return found[int(generator.integers(len(found)))]
    raise BadRegion(f"wanted room for two blocks of {block} cells in the grid {grid}, found none")


def _spread_places(grid: Grid, block: Grid, seed: int) -> list[Places]:
    """Places in an order that covers the image evenly: each quarter takes its turn."""
    generator = np.random.default_rng([seed, 7])
    middle = [(side - length) / 2 for side, length in zip(grid, block, strict=True)]
    corners = corners_of(grid, block)
    quarters: dict[tuple[bool, bool], list[Place]] = {}
    for index in generator.permutation(len(corners)):
        row, column = corners[index]
        quarters.setdefault((row > middle[0], column > middle[1]), []).append(corners[index])
    turns = itertools.zip_longest(*(quarters[key] for key in sorted(quarters)))
    return [
        (place, _partner(place, grid, block, generator))
        for turn in turns
        for place in turn
        if place is not None
    ]


def _deal(
    backgrounds: Literal["fixtures"] | Sequence[Layer], pairs: list[str]
) -> dict[str, list[Layer]]:
    if backgrounds == "fixtures":
        manifest = fixtures.manifest()
        return {
            pair: [Layer(image=fixtures.photograph(one.id), label=one.label, id=one.id)
                   for one in manifest.backgrounds(pair)]
            for pair in pairs
        }  # fmt: skip
    if not backgrounds or isinstance(backgrounds, str):
        raise UsageError(f"wanted 'fixtures' or at least one background, got {backgrounds!r}")
    dealt: dict[str, list[Layer]] = {pair: [] for pair in pairs}
    for index, background in enumerate(backgrounds):
        dealt[pairs[index % len(pairs)]].append(background)
    return dealt


def _square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, resized, with its luma range compressed."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    small = square.resize((size, size), Image.Resampling.LANCZOS)
    return Image.fromarray(fade(compress(np.asarray(small)), FADED))


def _sprite(image: Image.Image, pixels: tuple[int, ...], colour: str) -> Image.Image:
    """An object, luma compressed, coloured, as large as fits into `pixels` rows and columns."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox() or (0, 0, *image.size))
    room = [max(1, round(side * (1 - 2 * MARGIN))) for side in pixels]
    scale = min(room[1] / image.width, room[0] / image.height)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.LANCZOS,
    )
    content = np.array(small)
    content[..., :3] = tint(compress(content[..., :3]), colour)
    sprite = Image.new("RGBA", (pixels[1], pixels[0]), (128, 128, 128, 0))
    corner = ((pixels[1] - small.width) // 2, (pixels[0] - small.height) // 2)
    sprite.paste(Image.fromarray(content), corner)
    return sprite


def _paint(parts: Parts, labels: tuple[str, str]) -> tuple[Image.Image, list[Region]]:
    """Puts both sprites onto the background; where they are is the scene's truth."""
    image = parts.background.copy()
    cell = (image.height // parts.grid[0], image.width // parts.grid[1])
    regions = []
    for sprite, (row, column), label in zip(parts.sprites, parts.places, labels, strict=True):
        x, y = column * cell[1], row * cell[0]
        image.paste(sprite, (x, y), sprite)
        mask: NDArray[np.bool_] = np.zeros((image.height, image.width), dtype=np.bool_)
        alpha = np.asarray(sprite.getchannel("A")) >= 128
        mask[y : y + sprite.height, x : x + sprite.width] = alpha
        regions.append(Region(box=(x, y, sprite.width, sprite.height), mask=mask, label=label))
    return image, regions


def _child(seed: int, index: int) -> int:
    """A seed of its own for each scene, without overlap between runs of other seeds."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
