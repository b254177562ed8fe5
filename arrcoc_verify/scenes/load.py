"""A user's own pictures as scenes: a folder, a CSV `image,query,box`, or COCO json.

Bad rows are all named at once, and skipped only if asked for, never silently.

Source: RFC 4180 (CSV) and the COCO data format (cocodataset.org/#format-data).
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from arrcoc_verify.errors import ArrcocError, BadImage, BadTable, UsageError
from arrcoc_verify.scenes import queries
from arrcoc_verify.scenes.coco import annotations
from arrcoc_verify.scenes.compose import Layer, scenes
from arrcoc_verify.scenes.images import MEGAPIXELS, SUFFIXES, Picture, load_image, read_picture
from arrcoc_verify.scenes.rows import Row, Skipped, parse_box, settle
from arrcoc_verify.scenes.scene import Grid, Region, Scene

__all__ = [
    "Limits", "Loaded", "Photographs", "Skipped", "load", "load_coco", "load_csv", "load_folder",
    "load_image", "parse_box",
]  # fmt: skip

COLUMNS = ("image", "query", "box")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is read, and what happens to what cannot be.

    Args:
        megapixels: larger pictures are refused before they are decoded.
        side: pictures are reduced until no side is longer, and boxes with them.
        skip_bad: leave out what is bad and list it, instead of raising.
    """

    megapixels: float = MEGAPIXELS
    side: int = 1024
    skip_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """A folder's photographs, to be backgrounds of composed scenes.

    Args:
        layers: the photographs; their ids are paths relative to the folder.
        skipped: what was left out, and why.
        notes: what was done to some, such as "a.png: turned upright".
    """

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Scenes from a user's files.

    Args:
        scenes: in the order of the file.
        skipped: what was left out, and why.
        notes: what was done to some pictures.
    """

    scenes: tuple[Scene, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Gallery:
    """Pictures of one folder, each read once; nothing outside the folder is read."""

    root: Path
    limits: Limits
    read: dict[str, Picture] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, *, keep: bool = True) -> Picture:
        """The picture with this path relative to the folder.

        Raises:
            BadImage: it lies outside the folder or cannot be used.
        """
        if name in self.read:
            return self.read[name]
        path = self.root / name
        if not name or not path.resolve().is_relative_to(self.root.resolve()):
            raise BadImage(
                f"wanted a path inside {self.root}, got {name!r}: "
                "write paths relative to that folder, without leaving it"
            )
        picture = read_picture(path, megapixels=self.limits.megapixels, side=self.limits.side)
        self.notes.extend(f"{name}: {note}" for note in picture.notes)
        if keep:
            self.read[name] = picture
        return picture


def load(
    path: str | Path,
    *,
    images_dir: str | Path | None = None,
    grid: Grid = (16, 16),
    size: int = 256,
    seed: int = 0,
    limits: Limits | None = None,
) -> Loaded:
    """Scenes from whatever the path names: a folder, a `.csv` or a COCO `.json`.

    Args:
        path: a folder of photographs, a CSV table or a COCO file.
        images_dir: for COCO only, the folder of its images; the file's own if not given.
        grid: for a folder only, the model's grid.
        size: for a folder only, the side of the composed scenes in pixels.
        seed: decides places and words.
        limits: how much is read, and whether bad rows are skipped.

    Raises:
        UsageError: the path is neither, or holds nothing usable.
        BadTable: rows cannot be used, each named.
    """
    path = Path(path)
    if path.is_dir():
        found = load_folder(path, limits=limits, shorter=size)
        made = scenes("assert", grid=grid, size=size, per_cluster=len(found.layers), seed=seed,
                      backgrounds=found.layers)  # fmt: skip
        return Loaded(scenes=tuple(made), skipped=found.skipped, notes=found.notes)
    if not path.exists():
        raise UsageError(f"wanted a folder, a .csv or a COCO .json, found nothing at {path}")
    if path.suffix.lower() == ".csv":
        return load_csv(path, seed=seed, limits=limits)
    if path.suffix.lower() == ".json":
        return load_coco(path, images_dir, seed=seed, limits=limits)
    raise UsageError(
        f"wanted a folder, a .csv or a COCO .json, got {path}: put photographs into a folder"
    )


def load_folder(
    path: str | Path, *, limits: Limits | None = None, shorter: int | None = None
) -> Photographs:
    """The photographs of a folder and its subfolders, in the order of their names.

    Files that are not pictures by their suffix are left alone. Copies of one picture count once.

    Args:
        path: the folder.
        limits: how much is read, and whether bad files are skipped.
        shorter: reduce pictures until their shorter side has so many pixels, to bound memory.

    Raises:
        BadImage: there is no such folder or no picture in it.
        BadTable: files cannot be used, each named.
    """
    root, limits = Path(path), limits or Limits()
    if not root.is_dir():
        raise BadImage(f"wanted a folder of pictures, found none at {root}")
    names = sorted(
        file.relative_to(root).as_posix()
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    gallery = _Gallery(root=root, limits=limits)
    layers: list[Layer] = []
    skipped: list[Skipped] = []
    seen: dict[str, str] = {}
    for name in names:
        try:
            image = gallery.get(name, keep=False).image
        except ArrcocError as error:
            skipped.append(Skipped(where=name, reason=str(error)))
            continue
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest in seen:
            gallery.notes.append(f"{name}: the same picture as {seen[digest]}, counted once")
            continue
        seen[digest] = name
        if shorter is not None and min(image.size) > shorter:
            scale = shorter / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)),
                                 Image.Resampling.LANCZOS)  # fmt: skip
        layers.append(Layer(image=image, label=Path(name).stem, id=name))
    settle(str(root), skipped, skip_bad=limits.skip_bad)
    if not layers:
        raise BadImage(
            f"wanted at least one picture in {root}, found none: "
            f"supported are {' '.join(sorted(SUFFIXES))}"
        )
    return Photographs(layers=tuple(layers), skipped=tuple(skipped), notes=tuple(gallery.notes))


def load_csv(path: str | Path, *, seed: int = 0, limits: Limits | None = None) -> Loaded:
    """Natural scenes from a table with the columns `image,query,box`.

    `box` is "x,y,w,h" in pixels of the picture. `label` and `unit` may be added; without `unit` the
    image is the unit. Another box of the same image with another query is the distractor.

    Args:
        path: UTF-8 CSV with a header; paths in it are relative to its folder.
        seed: decides the words of controls.
        limits: how much is read, and whether bad rows are skipped.

    Raises:
        BadTable: the file is no such table, or rows cannot be used, each named with its line.
    """
    path, limits = Path(path), limits or Limits()
    gallery = _Gallery(root=path.parent, limits=limits)
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for line, entry in _read_csv(path):
        try:
            rows.append(_csv_row(line, entry, gallery))
        except ArrcocError as error:
            skipped.append(Skipped(where=f"line {line}", reason=str(error)))
    settle(str(path), skipped, skip_bad=limits.skip_bad)
    return _natural(path, rows, gallery, skipped, seed)


def load_coco(
    path: str | Path,
    images_dir: str | Path | None = None,
    *,
    seed: int = 0,
    limits: Limits | None = None,
) -> Loaded:
    """Natural scenes from COCO json: of each category in each image the largest object.

    The query asks for the category; an object of another category is the distractor. Polygons and
    uncompressed run lengths become masks. Crowds are left out and noted.

    Args:
        path: a COCO file with `images`, `annotations` and `categories`.
        images_dir: the folder of its images; the file's own if not given.
        seed: decides the words of queries and controls.
        limits: how much is read, and whether bad annotations are skipped.

    Raises:
        BadTable: the file is not COCO, or annotations cannot be used, each named with its id.
    """
    path, limits = Path(path), limits or Limits()
    gallery = _Gallery(root=Path(images_dir) if images_dir else path.parent, limits=limits)
    found, skipped, notes = annotations(path)
    gallery.notes.extend(notes)
    rows: list[Row] = []
    for one in found:
        try:
            picture = gallery.get(one.image)
            if one.size is not None and one.size != picture.size:
                raise BadImage(
                    f"wanted {one.image} with {one.size[0]}x{one.size[1]} pixels, it has "
                    f"{picture.size[0]}x{picture.size[1]}: boxes and image do not belong together"
                )
            region = _fit(Region(box=one.box, mask=one.mask(), label=one.label), picture)
            template = len(rows) % len(queries.TEMPLATES)
            query = queries.check_query(queries.ask(one.label, template))
            rows.append(Row(image=one.image, query=query, region=region, unit=one.image,
                            name=one.where))  # fmt: skip
        except ArrcocError as error:
            skipped.append(Skipped(where=one.where, reason=str(error)))
    settle(str(path), skipped, skip_bad=limits.skip_bad)
    return _natural(path, rows, gallery, skipped, seed)


def _read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadTable(f"wanted a CSV at {path}, cannot read it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadTable(
            f"wanted UTF-8 in {path}, byte {error.start} is not: save the table as UTF-8"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    wanted = f"wanted a first line with the columns {','.join(COLUMNS)} in {path}"
    try:
        columns = [(name or "").strip() for name in reader.fieldnames or ()]
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise BadTable(f"{wanted}, missing {', '.join(missing)}, got {', '.join(columns)}")
        if len(set(columns)) != len(columns):
            raise BadTable(f"{wanted}, each once, got {', '.join(columns)}")
        reader.fieldnames = columns
        rows = []
        for entry in reader:
            rows.append((reader.line_num, entry))  # noqa: PERF401 - line_num changes as we read
    except csv.Error as error:
        raise BadTable(
            f"wanted a well-formed CSV, {path} breaks off at line {reader.line_num} ({error}): "
            "is a quote missing?"
        ) from error
    if not rows:
        raise BadTable(f"wanted at least one row below the header of {path}, found none")
    return rows


def _csv_row(line: int, entry: dict[str, str], gallery: _Gallery) -> Row:
    # DictReader puts surplus fields under None and None into missing ones.
    if None in entry or None in entry.values():
        raise BadTable(f'wanted {len(entry)} fields: put quotes around the box, as in "0,0,9,9"')
    query = queries.check_query(entry["query"])
    box = parse_box(entry["box"])
    name = entry["image"].strip()
    picture = gallery.get(name)
    region = _fit(Region(box=box, label=(entry.get("label") or "").strip()), picture)
    unit = (entry.get("unit") or "").strip() or name
    return Row(image=name, query=query, region=region, unit=unit, name=f"line {line}")


def _fit(region: Region, picture: Picture) -> Region:
    """The region on the picture as it was reduced.

    Raises:
        BadRegion: it lies outside the picture.
    """
    region.check(picture.size)
    if picture.image.size == picture.size:
        return region
    wide, high = picture.image.width / picture.size[0], picture.image.height / picture.size[1]
    x, y, width, height = region.box
    left, top = int(x * wide), int(y * high)
    right = max(left + 1, min(round((x + width) * wide), picture.image.width))
    bottom = max(top + 1, min(round((y + height) * high), picture.image.height))
    mask = region.mask
    if mask is not None:
        rows = np.minimum(np.arange(picture.image.height) / high, mask.shape[0] - 1).astype(int)
        columns = np.minimum(np.arange(picture.image.width) / wide, mask.shape[1] - 1).astype(int)
        mask = mask[np.ix_(rows, columns)]
        mask = mask if mask.any() else None
    return Region(box=(left, top, right - left, bottom - top), mask=mask, label=region.label)


def _natural(
    path: Path, rows: Sequence[Row], gallery: _Gallery, skipped: Sequence[Skipped], seed: int
) -> Loaded:
    if not rows:
        raise BadTable(f"wanted at least one usable row in {path}, found none")
    same_image: dict[str, list[Row]] = {}
    for row in rows:
        same_image.setdefault(row.image, []).append(row)
    made = []
    for number, row in enumerate(rows):
        other = next((one for one in same_image[row.image] if _is_distractor(one, row)), None)
        generator = np.random.default_rng([seed, number])
        again = queries.paraphrase(row.region.label, number) if row.region.label else ""
        made.append(
            Scene(
                image=gallery.get(row.image).image,
                query=row.query,
                target=row.region,
                distractor=other.region if other else None,
                other_query=other.query if other else None,
                paraphrase=again or f"in this picture: {row.query}",
                absent_query=queries.ask_absent(generator, number),
                nonsense=queries.nonsense(row.query, generator),
                unit=row.unit,
                cluster=row.unit,
                role="assert",
                name=f"{path.name}/{row.name}",
            )
        )
    return Loaded(scenes=tuple(made), skipped=tuple(skipped), notes=tuple(gallery.notes))


def _is_distractor(one: Row, row: Row) -> bool:
    """Another box that something else asks for and that does not lie on this one."""
    if one.query == row.query:
        return False
    x, y, width, height = row.region.box
    left, top, wide, high = one.region.box
    across = min(x + width, left + wide) - max(x, left)
    down = min(y + height, top + high) - max(y, top)
    return max(across, 0) * max(down, 0) < 0.5 * min(width * height, wide * high)
