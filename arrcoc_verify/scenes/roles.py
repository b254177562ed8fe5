"""Gives every fixture one role and joins cut-outs to pairs: `python -m arrcoc_verify.scenes.roles`.

Source: the manifest's facts (files, labels, `scenic`); the same files always get the same roles.
"""

import argparse
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from arrcoc_verify.scenes.colour import to_lab
from arrcoc_verify.scenes.fixtures import ROLES, Role, folder

# Pairs and backgrounds per pair. `assert` gets the most: its number of clusters bounds the
# smallest p that a sign-flip test can reach.
QUOTA: dict[Role, tuple[int, int]] = {
    "assert": (22, 3),
    "select": (8, 3),
    "donor": (4, 2),
    "train": (4, 2),
    "repair-confirm": (4, 2),
}
# Labels that a fair query could confuse are of one kind and never meet in a pair.
KINDS: dict[str, tuple[str, ...]] = {
    "fish": ("fish", "perches", "goldfish", "pufferfish", "angelfish"),
    "cup": ("cup", "teacup", "plate"),
    "ball": ("baseball", "volleyball"),
    "cutter": ("pliers", "cutting pliers", "side cutters", "scissors", "nail clippers", "tweezers"),
    "bear": ("panda", "red panda", "polar bear", "koala"),
    "tool": ("hammer", "wrench", "screwdriver"),
    "bird": ("kingfisher", "scarlet macaw", "duck"),
    "pet": ("dog", "cat", "pig", "sheep", "pika", "hedgehog", "kangaroo"),
}
NEAR = 6  # bits of 63 in which two perceptual hashes of one picture may differ
ENOUGH = 60.0  # CIE-Lab distance beyond which a pair is no better for more


def kind_of(label: str) -> str:
    """The kind that a label belongs to; the label itself if it is of no listed kind."""
    return next((kind for kind, labels in KINDS.items() if label in labels), label)


def perceptual_hash(image: Image.Image) -> NDArray[np.bool_]:
    """63 bits that hardly change when a picture is resized or re-encoded (DCT of 32x32, median)."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    low = dctn(grey)[:8, :8].ravel()[1:]
    return np.asarray(low > np.median(low))


def mean_colour(image: Image.Image) -> tuple[int, int, int]:
    """The mean RGB of an RGBA picture, weighted by its alpha."""
    pixels = np.asarray(image.convert("RGBA"), dtype=float)
    alpha = pixels[..., 3:]
    mean = (pixels[..., :3] * alpha).sum((0, 1)) / max(float(alpha.sum()), 1.0)
    red, green, blue = (round(float(value)) for value in mean)
    return red, green, blue


def near_duplicates(images: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """Pairs of indices of pictures whose perceptual hashes are close."""
    hashes = np.stack([perceptual_hash(image) for image in images])
    distance = (hashes[:, None] != hashes[None]).sum(-1)
    return [(i, j) for i, j in itertools.combinations(range(len(images)), 2)
            if distance[i, j] <= NEAR]  # fmt: skip


def join(colours: NDArray[np.float64], kinds: Sequence[str]) -> list[tuple[int, int]]:
    """Perfect matching with different kinds and clearly different colours.

    Pairs the most frequent kinds first, then exchanges partners while that helps.
    """
    distance = np.minimum(np.linalg.norm(colours[:, None] - colours[None], axis=-1), ENOUGH)
    same = np.array(kinds)[:, None] == np.array(kinds)[None]
    worth = np.where(same, -1e6, distance)
    frequency = {kind: list(kinds).count(kind) for kind in kinds}
    left = sorted(range(len(kinds)), key=lambda i: (-frequency[kinds[i]], i))
    pairs: list[tuple[int, int]] = []
    while left:
        first = left.pop(0)
        second = max(left, key=lambda i: (worth[first, i], -i))
        left.remove(second)
        pairs.append((first, second))
    improved = True
    while improved:
        improved = False
        for x, y in itertools.combinations(range(len(pairs)), 2):
            (a, b), (c, d) = pairs[x], pairs[y]
            for one, two in (((a, c), (b, d)), ((a, d), (b, c))):
                # The square root favours two fair pairs over an excellent and a poor one.
                if _gain(worth, one, two) > _gain(worth, (a, b), (c, d)) + 1e-9:
                    pairs[x], pairs[y] = one, two
                    improved = True
                    break
    return pairs


def _gain(worth: NDArray[np.float64], one: tuple[int, int], two: tuple[int, int]) -> float:
    return float(sum(np.sqrt(w) if (w := worth[pair]) >= 0 else w for pair in (one, two)))


def assign(facts: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The whole manifest: the facts plus digests, kinds, colours, pairs and roles."""
    cutouts = [dict(entry) for entry in facts["cutouts"]]
    photographs = [dict(entry) for entry in facts["photographs"]]
    for entry in cutouts + photographs:
        entry["sha256"] = hashlib.sha256((root / entry["file"]).read_bytes()).hexdigest()
    for entry in cutouts:
        entry["kind"] = kind_of(entry["label"])
        entry["colour"] = list(mean_colour(Image.open(root / entry["file"])))
    _pair_cutouts(cutouts)
    by_photograph = {entry["photograph"]: entry for entry in cutouts}
    for entry in photographs:
        owner = by_photograph.get(entry["id"])
        entry["role"] = owner["role"] if owner else None
        entry["pair"] = owner["pair"] if owner else None
    _place_backgrounds(photographs, root)
    return {"photographs": photographs, "cutouts": cutouts}


def _pair_cutouts(cutouts: list[dict[str, Any]]) -> None:
    colours = to_lab(np.array([entry["colour"] for entry in cutouts], dtype=float))
    pairs = join(colours, [entry["kind"] for entry in cutouts])
    # Sorting by digest spreads labels over the roles without anybody's choice.
    pairs.sort(key=lambda two: min(cutouts[i]["sha256"] for i in two))
    roles = [role for role, (count, _) in QUOTA.items() for _ in range(count)]
    for number, (two, role) in enumerate(zip(pairs, roles, strict=True)):
        for i in two:
            cutouts[i]["role"] = role
            cutouts[i]["pair"] = f"pair{number + 1:02d}"


def _place_backgrounds(photographs: list[dict[str, Any]], root: Path) -> None:
    """Deals backgrounds to pairs; photographs of one subject stay together."""
    for entry in photographs:
        if entry["cutout"]:
            entry["scenic"] = False
    for first, second in near_duplicates([Image.open(root / e["file"]) for e in photographs]):
        if photographs[first]["label"] == photographs[second]["label"]:
            photographs[second]["scenic"] = False  # the same picture twice is one unit
    subjects: dict[str, list[dict[str, Any]]] = {}
    for entry in photographs:
        if entry["role"] is None:
            # Places have proper names; of "windmill" there are many different ones.
            proper = entry["label"][0].isupper()
            key = entry["label"] if proper else entry["id"]
            subjects.setdefault(key, []).append(entry)
    groups = sorted(subjects.values(), key=lambda group: min(e["sha256"] for e in group))
    slots = _slots()
    # Groups with several backgrounds go first, so that they find room in one pair.
    for group in sorted(groups, key=lambda group: -sum(e["scenic"] for e in group)):
        _deal(group, slots)


def _slots() -> dict[tuple[Role, str], int]:
    numbers = itertools.count(1)
    return {(role, f"pair{next(numbers):02d}"): room
            for role, (count, room) in QUOTA.items() for _ in range(count)}  # fmt: skip


def _deal(group: list[dict[str, Any]], slots: dict[tuple[Role, str], int]) -> None:
    need = sum(entry["scenic"] for entry in group)
    rooms = [slot for slot, room in slots.items() if room >= need > 0]
    # The pair with the fewest so far, so that none goes without.
    place = min(rooms, key=lambda slot: QUOTA[slot[0]][1] - slots[slot], default=None)
    for entry in group:
        entry["role"] = place[0] if place else "train"
        entry["pair"] = place[1] if place else None
        entry["scenic"] = bool(entry["scenic"] and place)
    if place:
        slots[place] -= need


def overlaps(photographs: Iterable[Any], cutouts: Iterable[Any]) -> list[str]:
    """What breaks the rule of one role each, in words; empty when all is well."""
    owner = {one.id: one for one in photographs}
    wrong = [f"{c.id} is {c.role}, its photograph {c.photograph} is {owner[c.photograph].role}"
             for c in cutouts if c.role != owner[c.photograph].role]  # fmt: skip
    subject = {one.label: one.role for one in owner.values()}
    # Proper names are of single places; their pictures must not cross roles.
    return wrong + [
        f"{one.label} is both {one.role} and {subject[one.label]}"
        for one in owner.values()
        if one.label[0].isupper() and subject[one.label] != one.role
    ]


def write(data: Mapping[str, Any], path: Path) -> None:
    """Writes the manifest atomically, in one fixed form."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, delete=False, suffix=".tmp"
    ) as handle:
        handle.write(json.dumps(data, ensure_ascii=False, indent=1) + "\n")
    made = Path(handle.name)
    made.chmod(0o644)
    made.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the roles anew, or with `--check` says whether they are as they should be."""
    parser = argparse.ArgumentParser(prog="python -m arrcoc_verify.scenes.roles",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if they differ")
    options = parser.parse_args(arguments)
    path = folder() / "manifest.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    new = assign(_facts(old), folder())
    same = new == old
    if not options.check:
        write(new, path)
    for role in ROLES:
        pairs = {c["pair"] for c in new["cutouts"] if c["role"] == role}
        scenic = sum(p["scenic"] for p in new["photographs"] if p["role"] == role)
        every = sum(p["role"] == role for p in new["photographs"])
        rich.print(f"{role:15} {len(pairs):3} pairs {scenic:4} backgrounds {every:4} photographs")
    rich.print("as kept" if same else ("differs from what is kept" if options.check else "written"))
    return int(options.check and not same)


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without what this module decides, except `scenic`, which people judged."""
    decided = {"role", "pair", "sha256", "kind", "colour"}
    return {part: [{k: v for k, v in entry.items() if k not in decided} for entry in data[part]]
            for part in ("photographs", "cutouts")}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
