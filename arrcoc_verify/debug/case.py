"""One failed allocation: a picture, a query, a region, and what the region should have got."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from arrcoc_verify.errors import BadConfig, BadRegion
from arrcoc_verify.graph import require_text
from arrcoc_verify.model import Model
from arrcoc_verify.scenes.load import load_image, parse_box
from arrcoc_verify.scenes.scene import Box, Region

FACE = frozenset({"face", "faces"})
"""Labels that the package's own detector finds."""

_EXPECTED = re.compile(r"\s*(>=|<=|≥|≤)?\s*([0-9]+(?:\.[0-9]+)?)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the region's mean tokens per patch should be.

    Attributes:
        tokens: the bound.
        sign: 1 when at least so many are wanted, -1 when at most.
        given: the user said it; else it was read from what such regions get elsewhere.
    """

    tokens: float
    sign: int = 1
    given: bool = True

    def met(self, tokens: Tensor) -> Tensor:
        """Return whether each reading keeps the bound, to a thousandth of it."""
        slack = 1e-3 * max(abs(self.tokens), 1.0)
        return (tokens - self.tokens) * self.sign >= -slack

    def __str__(self) -> str:
        """Return the bound as it is written: `>=256`."""
        return f"{'>=' if self.sign > 0 else '<='}{self.tokens:g}"


def parse_goal(text: str) -> Goal:
    """Return the goal that a text such as `>=256` or `<=100` states; a bare number means at least.

    Raises:
        BadConfig: it states none.
    """
    found = _EXPECTED.fullmatch(text)
    if found is None or not math.isfinite(float(found[2])):
        raise BadConfig(
            f"wanted --expect as '>=256' or '<=100' in tokens per patch, got {text!r}: "
            "put it into quotes, the shell takes > for a file"
        )
    return Goal(tokens=float(found[2]), sign=-1 if found[1] in ("<=", "≤") else 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A picture at the model's size, a query and a region on the model's grid.

    Attributes:
        image: RGB, as large as the model declares.
        query: text.
        cells: bool `[patch]`, the region.
        box: the region as (x, y, width, height) in pixels of `image`.
        name: of the file, or what the caller says.
        label: what is in the region, or "".
        note: what was found about the region, such as how sure a detector was.
        boxed: the region is a box and no mask, so that it holds background, too.
    """

    image: Image.Image
    query: str
    cells: Tensor
    box: Box
    name: str
    label: str = ""
    note: str = ""
    boxed: bool = False


def make_case(  # noqa: PLR0913 - the last three are ways to say which region
    model: Model,
    image: Image.Image | str | Path,
    query: str,
    region: Region | Box | str | None = None,
    *,
    label: str = "",
    mask: NDArray[np.bool_] | None = None,
    labels: Path | None = None,
) -> Case:
    """Return a case on the model's grid.

    Args:
        model: decides size and grid.
        image: picture or file.
        query: text.
        region: a Region, (x, y, width, height) or "x,y,w,h" in pixels of the picture.
        label: what is there; without region and mask it is looked for: `face`, or with `labels`
            whatever words name.
        mask: bool `[H, W]` over the picture, in place of a region.
        labels: folder of an open_clip model that finds what words name.

    Raises:
        BadImage, BadQuery: the picture or the query cannot be used.
        BadRegion: no region is given, nothing of the label is found, or it leaves the picture.
    """
    require_text([query])
    picture = image if isinstance(image, Image.Image) else load_image(image)
    picture = picture.convert("RGB")
    name = "picture" if isinstance(image, Image.Image) else Path(image).name
    found, note = _region(picture, region, label, mask, name, labels)
    height, width = model.declaration.image_size
    sized = picture
    if picture.size != (width, height):
        sized = picture.resize((width, height), Image.Resampling.LANCZOS)
    cells = region_cells(found, model.declaration.grid, picture.size)
    across, down = width / picture.width, height / picture.height
    x, y, wide, high = found.box
    left, top = int(x * across), int(y * down)
    box = (
        left, top, max(1, min(round((x + wide) * across), width) - left),
        max(1, min(round((y + high) * down), height) - top),
    )  # fmt: skip
    return Case(
        image=sized, query=query, cells=cells, box=box, name=name,
        label=found.label or label, note=note, boxed=found.mask is None,
    )  # fmt: skip


def region_cells(region: Region, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return bool `[patch]`: cells that the region's mask (else its box) covers by half.

    A region that covers half of no cell is the cell that it covers most.
    """
    boxed = region.cells(grid, size)
    if region.mask is None:
        return torch.as_tensor(boxed)
    rows = np.linspace(0, size[1], grid[0] + 1).round().astype(int)
    columns = np.linspace(0, size[0], grid[1] + 1).round().astype(int)
    summed = np.zeros((size[1] + 1, size[0] + 1))
    summed[1:, 1:] = region.mask.cumsum(0).cumsum(1)
    corners = summed[np.ix_(rows, columns)]
    inside = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    area = np.outer(np.diff(rows), np.diff(columns)).clip(min=1)
    covered = (inside / area).ravel()
    cells = covered >= 0.5
    if not cells.any():
        cells = np.arange(covered.size) == covered.argmax()
    return torch.as_tensor(cells)


def beside(
    model: Model, image: Image.Image, case: Case, name: str, *, labels: Path | None = None
) -> Case:
    """Return another picture with the same query and the region that corresponds.

    It is what has the case's label, where that can be looked for and is found; else what lies in
    the same part of the picture.

    Args:
        model: decides size and grid.
        image: the other picture.
        case: whose query and region are taken.
        name: of the other picture.
        labels: folder of an open_clip model that finds what words name.
    """
    if case.label and (case.label.lower() in FACE or labels is not None):
        try:
            found = make_case(model, image, case.query, label=case.label, labels=labels)
        except BadRegion:
            pass  # nothing of the kind there: the place has to do
        else:
            return replace(found, name=name, note=f"the {case.label} at {found.box}")
    height, width = model.declaration.image_size
    sized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return replace(case, image=sized, name=name, note="the same part of the picture")


def require_reachable(goal: Goal, model: Model, case: Case | None = None) -> None:
    """Refuse a goal that no patch of this model can keep, or no region as large as the case's.

    Raises:
        BadConfig: it lies outside the model's tokens per patch, or its whole budget, with the
            fewest tokens everywhere else, does not reach it.
    """
    ends = model.declaration.lod
    if ends is None:
        return
    low, high = ends
    if (goal.sign > 0 and goal.tokens > high) or (goal.sign < 0 and goal.tokens < low):
        raise BadConfig(
            f"wanted --expect between {low:g} and {high:g}, what {model.name} can give a patch, "
            f"got {goal}"
        )
    most = None if case is None else most_for(model, case)
    if case is not None and most is not None and goal.sign > 0 and goal.tokens > most:
        raise BadConfig(
            f"wanted --expect of at most {most:.4g} for a region of {int(case.cells.sum())} of "
            f"{len(case.cells)} patches, since {model.name} shares {model.declaration.total:g} "
            f"tokens among all, got {goal}"
        )


def most_for(model: Model, case: Case) -> float | None:
    """Return the most tokens per patch that a conserved total leaves a region of this size.

    Returns:
        With the fewest tokens everywhere else; None where no total is declared.
    """
    declared = model.declaration
    if declared.lod is None or declared.total is None or not declared.conserved_total:
        return None
    many = int(case.cells.sum())
    left = declared.total - (len(case.cells) - many) * declared.lod[0]
    return min(declared.lod[1], left / many)


def _region(
    picture: Image.Image,
    region: Region | Box | str | None,
    label: str,
    mask: NDArray[np.bool_] | None,
    name: str,
    labels: Path | None,
) -> tuple[Region, str]:
    if region is not None and mask is not None:
        raise BadRegion("wanted a region or a mask, got both: leave one out")
    if mask is not None:
        return _masked(mask, picture, label), ""
    if region is not None:
        made = _boxed(region, label)
        made.check(picture.size)
        return made, ""
    if not label:
        raise BadRegion("wanted --region x,y,w,h, --mask PNG or --label face: which part is it?")
    if label.lower() in FACE:
        return _face(picture, name)
    if labels is None:
        raise BadRegion(
            f"wanted --label face, or --labels FOLDER with the weights of an open_clip model that "
            f"finds {label!r}: without them give the box by --region x,y,w,h"
        )
    from arrcoc_verify.debug.labels import find_label

    return find_label(picture, label, labels, name)


def _boxed(region: Region | Box | str, label: str) -> Region:
    if isinstance(region, Region):
        return region
    box: Sequence[float] = parse_box(region) if isinstance(region, str) else region
    if len(box) != 4:
        raise BadRegion(f"wanted a box (x, y, width, height) in pixels, got {region!r}")
    x, y, wide, high = (round(side) for side in box)
    return Region(box=(x, y, wide, high), label=label)


def _masked(mask: NDArray[np.bool_], picture: Image.Image, label: str) -> Region:
    if mask.shape != (picture.height, picture.width):
        raise BadRegion(
            f"wanted a mask as large as the picture, {picture.width}x{picture.height}, got "
            f"{mask.shape[1]}x{mask.shape[0]}: resize it like the picture"
        )
    if not mask.any():
        raise BadRegion("wanted a mask with at least one white pixel, got none: check its file")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    box = (left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)
    return Region(box=box, mask=mask, label=label)


def _face(picture: Image.Image, name: str) -> tuple[Region, str]:
    from arrcoc_verify.debug.faces import find_faces

    faces = find_faces(picture)
    if not faces:
        raise BadRegion(
            f"no face was found in {name}: give its box by --region x,y,w,h, "
            "or use a picture in which it is larger than 20 pixels"
        )
    best = faces[0]
    said = f"face found with probability {best.probability:.3f}"
    if len(faces) > 1:
        said += f"; {len(faces)} faces were found, the largest is taken"
    return Region(box=best.box, label="face"), said


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a mask from a picture file: white is inside; opaque, where some of it is not.

    Raises:
        BadImage: it cannot be read.
    """
    light = np.asarray(load_image(path).convert("L")) >= 128  # refuses what is no picture first
    with Image.open(path) as opened:
        alpha = np.asarray(ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A"))
    return light if bool((alpha == 255).all()) else alpha >= 128
