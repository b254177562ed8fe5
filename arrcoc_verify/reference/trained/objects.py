"""Labelled pictures of things: cut-outs of the fixtures, rendered ones, and stamps of others.

What the reference model is trained on comes from photographs with role `train` only and, where the
user has the package at hand, from rendered emoji (MIT); stamps (GPL) are for testing, not shipped.
"""

import hashlib
import io
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arrcoc_verify.errors import BadImage
from arrcoc_verify.scenes import fixtures

LARGEST = 4096 * 4096
"""Pixels beyond which a picture from outside is not decoded."""
FOLDER = "trained/objects"

_NOT_A_THING = re.compile(
    r"\b(face|symbol|sign|arrow|heart|hearts|squared|circled|button|clock|moon|hand|hands|person|"
    r"man|men|woman|women|keycap|mark|square|circle|diamond|triangle|triangles|flag|flags|suit|"
    r"baby|boy|girl|child|adult|family|couple|kiss|fist|finger|fingers|balloon|bubble|dash|loop|"
    r"input|zodiac|aries|taurus|gemini|cancer|leo|virgo|libra|scorpius|sagittarius|capricorn|"
    r"aquarius|pisces|ophiuchus|night|sunrise|sunset|cloud|sun|fog|foggy|wave|sparkle|sparkles|"
    r"star|cross|bar|bars|envelope|tray|page|index|voltage|eyes|ear|nose|mouth|tongue|foot|leg|"
    r"arm|tooth|brain|bust|busts|silhouette|bride|prince|princess|mage|fairy|vampire|elf|genie|"
    r"zombie|troll|imp|ghost|alien|japanese|post|office|hotel|hospital|school|store|"
    r"mahjong|playing|joker|card|exclamation|question|interrogation|points|meridians|"
    r"selfie|shrug|juggling|wrestlers|runner|dancer|surfer|golfer|skier|snowboarder|swimmer|"
    r"bicyclist|lifter|horse racing|fencer|ninja|superhero|supervillain|police|guardsman|sleuth|"
    r"worker|biceps|massage|haircut|polish|facing|medal|collision|sweat|anger|dizzy|sleeping|"
    r"money|chart|trend|cinema|mode|phones|battery|brightness|link|curl|alternation|infinity|"
    r"prohibited|wheelchair|restroom|customs|claim|luggage|passport|litter|peace|atom|om|dharma|"
    r"star of david|yin yang|menorah|radioactive|biohazard|recycling|fleur-de-lis|trident|emblem|"
    r"copyright|registered|trade|milky way|rainbow|comet|cyclone|desert|island|park|fuji|"
    r"cityscape|stadium|beach|camping|volcano|wind|droplet|droplets|fire|fireworks|pistol|"
    r"pile of poo|breast-feeding|pregnant|head|dvd|cool|heavy|black|white|hole|footprints)\b"
)  # fmt: skip
_ANIMAL_FACES = frozenset({
    "bear", "cat", "cow", "dog", "dragon", "fox", "frog", "giraffe", "hamster", "horse", "lion",
    "monkey", "mouse", "panda", "pig", "rabbit", "robot", "tiger", "unicorn", "wolf", "zebra",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thing:
    """One labelled cut-out.

    Attributes:
        image: RGBA.
        label: what it is, lower case.
        id: unique in its source.
        source: `photograph`, `rendered` or `stamp`.
        role: of its photograph; `train` for what has none.
    """

    image: Image.Image
    label: str
    id: str
    source: str
    role: str = "train"


def photographed(role: str) -> list[Thing]:
    """Return the fixtures' cut-outs of one role, those kept for training included."""
    things = [
        Thing(image=fixtures.cutout(c.id), label=c.label, id=c.id, source="photograph", role=c.role)
        for c in fixtures.manifest().cutouts
        if c.role == role
    ]
    return things + [thing for thing in kept() if thing.role == role]


def kept() -> list[Thing]:
    """Return further cut-outs, made from photographs of role `train`, in a manifest of their own.

    Raises:
        BadImage: a file is missing or is not the one that the manifest names.
    """
    folder = fixtures.folder() / FOLDER
    roles = {one.id: one.role for one in fixtures.manifest().photographs}
    things = []
    for entry in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["cutouts"]:
        content = (folder / Path(entry["file"]).name).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise BadImage(
                f"wanted {entry['file']} as the manifest names it, the file differs: restore it"
            )
        image = Image.open(io.BytesIO(content)).convert("RGBA")
        things.append(Thing(image=image, label=entry["label"], id=entry["id"],
                            source="photograph", role=roles[entry["photograph"]]))  # fmt: skip
    return things


def rendered(archive: Path, side: int = 128) -> list[Thing]:
    """Return the emoji of a package archive (npm's `@lobehub/fluent-emoji-3d`, MIT) of things.

    Their names are Unicode's. People, signs, weather and places are left out.

    Raises:
        BadImage: the archive cannot be read, or holds no emoji.
    """
    things = []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                label = thing_name(Path(member.name).stem)
                held = tar.extractfile(member) if label and member.isfile() else None
                if label is None or held is None:
                    continue
                image = decoded(held.read(), member.name)
                image.thumbnail((side, side), Image.Resampling.LANCZOS)
                things.append(Thing(image=image, label=label, source="rendered",
                                    id=Path(member.name).stem))  # fmt: skip
    except (OSError, tarfile.TarError) as error:
        raise BadImage(f"wanted an archive of emoji, cannot read {archive}: {error}") from error
    if not things:
        raise BadImage(f"wanted an archive with emoji named by code point, {archive} holds none")
    return sorted(things, key=lambda thing: thing.id)


def thing_name(stem: str) -> str | None:
    """Return what an emoji's code point shows, or None when it is no thing."""
    points = [part for part in stem.split("-") if part != "fe0f"]
    if len(points) != 1:
        return None
    try:
        name = unicodedata.name(chr(int(points[0], 16))).lower()
    except ValueError:
        return None
    if name.endswith(" face") and name.removesuffix(" face") in _ANIMAL_FACES:
        return name.removesuffix(" face")
    if _NOT_A_THING.search(name) or "ideograph" in name or len(name.split()) > 3:
        return None
    return name.replace("black scissors", "scissors").removesuffix(" building")


def stamps(folder: Path, side: int = 256) -> Iterator[Thing]:
    """Yield photographed stamps: PNG files with a text beside each, whose first line names it.

    Drawn ones are told by their folder and left out, so are those without transparency.

    Raises:
        BadImage: there is no such folder.
    """
    if not folder.is_dir():
        raise BadImage(f"wanted a folder of stamps with PNG and txt files, {folder} is none")
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        if not text.is_file() or {"symbols", "cartoon"} & set(path.parts):
            continue
        first = text.read_text(encoding="utf-8", errors="replace").splitlines()[0]
        label = re.split(r"[.!(,]", first)[0].strip().lower()
        label = re.sub(r"^(an?|the|some)\s+", "", label).replace("“", "").replace("”", "")
        image = decoded(path.read_bytes(), str(path))
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        alpha = np.asarray(image.getchannel("A"))
        if label and 0.05 < float((alpha > 128).mean()) < 0.97:
            yield Thing(image=image, label=label, id=path.stem, source="stamp", role="test")


def decoded(content: bytes, name: str) -> Image.Image:
    """Return a picture from outside as RGBA.

    Raises:
        BadImage: it cannot be decoded, or is larger than `LARGEST` pixels.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > LARGEST:
            raise BadImage(f"{name} has {image.width}x{image.height} pixels, more than {LARGEST}")
        return image.convert("RGBA")
    except (OSError, Image.DecompressionBombError) as error:
        raise BadImage(f"wanted a picture, cannot decode {name}: {error}") from error
