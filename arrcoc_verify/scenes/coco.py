"""Objects of a COCO json file: boxes, labels and masks.

Source: the COCO data format, cocodataset.org/#format-data (boxes x,y,width,height; polygons; run
lengths column by column).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from arrcoc_verify.errors import BadRegion, BadTable
from arrcoc_verify.scenes.rows import Skipped
from arrcoc_verify.scenes.scene import Box


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Annotation:
    """One object of a COCO file.

    Args:
        where: the annotation's id, in words.
        image: the image's file name.
        size: width and height that the file gives the image, or None.
        box: `(x, y, width, height)`, whole pixels, inside `size`.
        label: name of its category.
        outline: polygons or uncompressed run lengths, or None.
    """

    where: str
    image: str
    size: tuple[int, int] | None
    box: Box
    label: str
    outline: Any = None

    def mask(self) -> NDArray[np.bool_] | None:
        """The object's pixels `[H, W]`, or None if the file gives none that can be read.

        Raises:
            BadRegion: the outline is malformed.
        """
        if not self.outline or self.size is None:
            return None
        try:
            if isinstance(self.outline, list):
                mask = _polygons(self.outline, self.size)
            elif isinstance(self.outline.get("counts"), list):
                mask = _run_lengths(self.outline["counts"], self.size)
            else:
                return None  # compressed run lengths: the box is enough
        except (AttributeError, TypeError, ValueError) as error:
            raise BadRegion(f"wanted polygons or run lengths as COCO has them ({error})") from error
        return mask if mask.any() else None


def annotations(path: Path) -> tuple[list[Annotation], list[Skipped], list[str]]:
    """The largest object of each category of each image, what cannot be used, and notes.

    Raises:
        BadTable: the file is not COCO json.
    """
    data = _read(path)
    images = {str(one.get("id")): one for one in data["images"] if isinstance(one, dict)}
    names = {
        str(one.get("id")): one.get("name") for one in data["categories"] if isinstance(one, dict)
    }
    largest: dict[tuple[str, str], Annotation] = {}
    skipped: list[Skipped] = []
    crowds = 0
    for number, entry in enumerate(data["annotations"]):
        own = entry.get("id") if isinstance(entry, dict) else None
        where = f"annotation number {number}" if own is None else f"annotation {own}"
        try:
            found = _annotation(where, entry, images, names)
        except (BadTable, BadRegion) as error:
            skipped.append(Skipped(where=where, reason=str(error)))
            continue
        if entry.get("iscrowd"):
            crowds += 1
            continue
        key = (found.image, found.label)
        if key not in largest or _area(found.box) > _area(largest[key].box):
            largest[key] = found
    notes = [f"{crowds} crowds left out: they are no single objects"] if crowds else []
    return list(largest.values()), skipped, notes


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadTable(f"wanted COCO json at {path}, cannot read it ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BadTable(f"wanted COCO json in {path}, it is not valid json ({error})") from error
    parts = ("images", "annotations", "categories")
    missing = [p for p in parts if not isinstance(data, dict) or not isinstance(data.get(p), list)]
    if missing:
        raise BadTable(
            f"wanted COCO json with the lists {', '.join(parts)}, {path} has no "
            f"{', '.join(missing)}: is it a results or captions file?"
        )
    return {part: data[part] for part in parts}


def _annotation(
    where: str, entry: Any, images: Mapping[str, Any], names: Mapping[str, Any]
) -> Annotation:
    if not isinstance(entry, dict):
        raise BadTable(f"wanted an object with image_id, category_id, bbox, got {entry!r:.60}")
    image = images.get(str(entry.get("image_id")))
    if image is None or not isinstance(image.get("file_name"), str):
        raise BadTable(f"wanted an image of the file, got image_id {entry.get('image_id')!r}")
    label = names.get(str(entry.get("category_id")))
    if not isinstance(label, str) or not label.strip():
        raise BadTable(f"wanted a category of the file, got {entry.get('category_id')!r}")
    size = (image.get("width"), image.get("height"))
    known = (size[0], size[1]) if all(isinstance(s, int) and s > 0 for s in size) else None
    return Annotation(
        where=where,
        image=image["file_name"],
        size=known,
        box=_box(entry.get("bbox"), known),
        label=label.strip(),
        outline=entry.get("segmentation"),
    )


def _box(given: Any, size: tuple[int, int] | None) -> Box:
    whole = isinstance(given, list) and len(given) == 4
    if not whole or not all(isinstance(n, int | float) and math.isfinite(n) for n in given):
        raise BadRegion(f"wanted bbox as four numbers x, y, width, height, got {given!r:.60}")
    x, y, width, height = given
    left, top, right, bottom = (math.floor(x), math.floor(y), math.ceil(x + width),
                                math.ceil(y + height))  # fmt: skip
    if size is not None:
        # Rounding may step over the border by a pixel; more than that is an error.
        if min(left, top) < -1 or right > size[0] + 1 or bottom > size[1] + 1:
            raise BadRegion(f"wanted a bbox inside {size[0]}x{size[1]} pixels, got {given}")
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, size[0]), min(
            bottom, size[1])  # fmt: skip
    if width <= 0 or height <= 0 or right <= left or bottom <= top:
        raise BadRegion(f"wanted a bbox with width and height above 0, got {given}")
    return left, top, right - left, bottom - top


def _area(box: Box) -> int:
    return box[2] * box[3]


def _polygons(outline: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    image = Image.new("1", size)
    draw = ImageDraw.Draw(image)
    for polygon in outline:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
        draw.polygon([float(number) for number in polygon], fill=1)
    return np.array(image, dtype=np.bool_)


def _run_lengths(counts: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    runs = np.array(counts, dtype=np.int64)
    if runs.min(initial=0) < 0 or int(runs.sum()) != size[0] * size[1]:
        raise ValueError(f"run lengths sum to {int(runs.sum())}, not {size[0] * size[1]}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[0], size[1]).T.copy()
