"""The photographs and cut-outs that come with the package, and who made each.

Source: `fixtures/manifest.json`, one entry per file with author, source, licence and role.
"""

import functools
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from arrcoc_verify.errors import BadImage, UnknownName

Role = Literal["train", "select", "donor", "assert", "repair-confirm"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """One photograph of the fixtures; `pair` is the only pair that may use it as a background."""

    id: str
    file: str
    sha256: str
    label: str
    author: str
    source: str
    licence: str
    role: Role
    cutout: str | None
    scenic: bool
    pair: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """One object cut from a photograph; two cut-outs with the same `pair` appear together."""

    id: str
    file: str
    sha256: str
    photograph: str
    label: str
    role: Role
    pair: str
    kind: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything in the fixtures, in a fixed order."""

    photographs: tuple[Photograph, ...]
    cutouts: tuple[Cutout, ...]

    def pairs(self, role: str) -> dict[str, tuple[Cutout, Cutout]]:
        """The pairs of cut-outs of one role, by the pair's id.

        Raises:
            UnknownName: there is no such role.
        """
        check_role(role)
        found: dict[str, list[Cutout]] = {}
        for cutout in self.cutouts:
            if cutout.role == role:
                found.setdefault(cutout.pair, []).append(cutout)
        return {pair: (two[0], two[1]) for pair, two in sorted(found.items())}

    def backgrounds(self, pair: str) -> tuple[Photograph, ...]:
        """The photographs that serve one pair, and no other, as backgrounds."""
        return tuple(one for one in self.photographs if one.scenic and one.pair == pair)


def check_role(role: str) -> Role:
    """The same role, known to exist.

    Raises:
        UnknownName: there is no such role.
    """
    for known in ROLES:
        if role == known:
            return known
    raise UnknownName("role", role, ROLES)


@functools.cache
def folder() -> Path:
    """The folder of the fixtures: inside an installed package, or of a source checkout.

    Raises:
        BadImage: neither holds a manifest.
    """
    package = Path(__file__).resolve().parent.parent
    places = (package / "_fixtures", package.parent / "fixtures")
    for place in places:
        if (place / "manifest.json").is_file():
            return place
    wanted = " or ".join(str(place) for place in places)
    raise BadImage(
        f"wanted the fixtures' manifest.json in {wanted}, found none: reinstall arrcoc_verify"
    )


@functools.cache
def manifest() -> Manifest:
    """The manifest of the fixtures."""
    return parse(json.loads((folder() / "manifest.json").read_text(encoding="utf-8")))


def parse(data: dict[str, Any]) -> Manifest:
    """A manifest from its JSON form."""
    return Manifest(
        photographs=tuple(Photograph(**entry) for entry in data["photographs"]),
        cutouts=tuple(
            Cutout(**{**entry, "colour": tuple(entry["colour"])}) for entry in data["cutouts"]
        ),
    )


@functools.lru_cache(maxsize=256)
def photograph(name: str) -> Image.Image:
    """The photograph with this id, RGB; treat it as read-only, it is shared.

    Raises:
        UnknownName: no photograph has this id.
        BadImage: the file is missing or is not the one that the manifest names.
    """
    known = {one.id: one for one in manifest().photographs}
    if name not in known:
        raise UnknownName("photograph", name, known)
    return _read(known[name].file, known[name].sha256, "RGB")


@functools.lru_cache(maxsize=128)
def cutout(name: str) -> Image.Image:
    """The cut-out with this id, RGBA; treat it as read-only, it is shared.

    Raises:
        UnknownName: no cut-out has this id.
        BadImage: the file is missing or is not the one that the manifest names.
    """
    known = {one.id: one for one in manifest().cutouts}
    if name not in known:
        raise UnknownName("cut-out", name, known)
    return _read(known[name].file, known[name].sha256, "RGBA")


def _read(file: str, sha256: str, mode: str) -> Image.Image:
    path = folder() / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadImage(
            f"wanted the fixture {path}, cannot read it ({error.strerror}): reinstall arrcoc_verify"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BadImage(
            f"wanted {path} with sha256 {sha256[:12]}, it has {found[:12]}: "
            "the file was changed; restore it, or run `python -m arrcoc_verify.scenes.roles`"
        )
    return Image.open(io.BytesIO(content)).convert(mode)
