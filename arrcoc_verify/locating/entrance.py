"""Whether all scorers share a defect of what they are given: then it lies in the picture's way in.

A scorer that errs alone errs by itself. Two experiments look for what all of them show alike, with
inputs of the same model and no sound twin: a small change of the picture is put in at known places,
and read where it arrives; and a part of the picture is taken away that every scorer ought to miss.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from arrcoc_verify.graph import Run
from arrcoc_verify.lab import Lab
from arrcoc_verify.locating.donors import channels, refuted_any
from arrcoc_verify.model import SCORERS, patches_last
from arrcoc_verify.scenes.edits import cell_edges
from arrcoc_verify.scenes.scene import Scene

FEW = 4
PROBES = 6
"""Scenes, and places in each, at which a change is put in."""
AWAY = 0.8
"""Cells by which a change arrives elsewhere; strided convolutions alone make up to 0.7."""
ALIKE = 0.5
"""Cells, or share of the way, by which scorers may differ about where it arrives."""
DEAF = 1e-6
"""Change, relative to the greatest value, that counts as none."""

Picture = Image.Image


def _without_quarter(down: int, across: int) -> Callable[[Picture], Picture]:
    def of(picture: Picture) -> Picture:
        pixels = np.asarray(picture).copy()
        rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
        part = pixels[down * rows :, across * columns :][:rows, :columns]
        part[:] = 255 - part
        return Image.fromarray(pixels)

    return of


COLOURS: Mapping[str, Callable[[Picture], Picture]] = {
    "its colours": lambda p: ImageOps.grayscale(p).convert("RGB"),
    "its green and blue": channels((0, 0, 0)),
    "its red and blue": channels((1, 1, 1)),
    "its red and green": channels((2, 2, 2)),
}
QUARTERS: Mapping[str, Callable[[Picture], Picture]] = {
    f"its {'lower' if down else 'upper'} {'right' if across else 'left'} quarter":
    _without_quarter(down, across) for down in (0, 1) for across in (0, 1)
}  # fmt: skip
"""What is taken from a picture, or changed in it, so that no scorer should stay as it is."""
OF_COLOUR = ("knowing.salience-sees-colour", "knowing.query-*", "query.live")
"""Claims and gates that a loss of colour breaks; where none is broken, a model may do without."""


def entrance_suspected(lab: Lab, broken: Collection[str]) -> str:
    """Return why what all scorers are given is to blame, or "" when they do not show it alike.

    Args:
        lab: model and scenes.
        broken: ids of refuted claims and failed gates.
    """
    few = lab.subset(range(min(FEW, len(lab))))
    if len(_values(few.clean, few)) < 2:  # one scorer cannot tell its own defect from another's
        return ""
    colour = refuted_any(OF_COLOUR, broken)
    return _displaced(few) or _missed(few, {**(COLOURS if colour else {}), **QUARTERS})


def _values(result: Run, lab: Lab) -> dict[str, Tensor]:
    """Return `[scene, patch, channel]` of each scorer: what it reads, or else its score."""
    found = {}
    for name in SCORERS:
        sites = (lab.model.role(f"{name}_features"), lab.model.role(name))
        site = next((one for one in sites if one is not None and one.per_patch), None)
        if site is not None:
            value = patches_last(result[site.name], site, lab.grid).double()
            found[name] = value.flatten(2) if value.ndim > 2 else value[..., None]
    return found


def _displaced(lab: Lab) -> str:
    """Return that a change of one cell arrives elsewhere, the same way in every scorer."""
    generator = np.random.default_rng(lab.seed)
    places = [_places(scene, lab.grid, generator) for scene in lab.scenes]
    clean = _values(lab.clean, lab)
    moves: dict[str, list[Tensor]] = {name: [] for name in clean}
    for at in range(PROBES):
        images = [
            _pasted(scene, lab.grid, cells[at])
            for scene, cells in zip(lab.scenes, places, strict=True)
        ]
        after = _values(lab.run_on(images), lab)
        meant = torch.tensor([cells[at] for cells in places], dtype=torch.float64)
        for name, value in clean.items():
            change = (after[name] - value).square().sum(2).sqrt()
            moves[name].append(_arrival(change, lab.grid) - meant)
    shifts = {name: torch.cat(parts) for name, parts in moves.items()}
    first, *others = shifts.values()
    away = all(_size(shift) > AWAY for shift in shifts.values())
    # A scorer that sees the whole picture answers less sharply: it may differ by a part of the way.
    alike = all(_size(other - first) <= ALIKE * max(1.0, _size(first)) for other in others)
    if not (away and alike):
        return ""
    return f"a change in one cell of the picture arrives in another, for {_named(shifts)} alike"


def _size(shift: Tensor) -> float:
    """Return the median length in cells; NaN, which is larger than nothing, where none arrived."""
    return float(shift.norm(dim=1).nanmedian())


def _places(
    scene: Scene, grid: tuple[int, int], generator: np.random.Generator
) -> list[tuple[int, int]]:
    free = ~scene.target.cells(grid, scene.image.size).reshape(grid)
    free[[0, -1]] = free[:, [0, -1]] = False  # what arrives is read on both sides of it
    cells = np.argwhere(free)
    if not len(cells):
        cells = np.argwhere(np.ones(grid, dtype=bool))
    chosen = generator.choice(len(cells), PROBES, replace=len(cells) < PROBES)
    return [(int(row), int(column)) for row, column in cells[chosen]]


def _pasted(scene: Scene, grid: tuple[int, int], cell: tuple[int, int]) -> Picture:
    """Return the picture with a cell of the asked object in one of its cells."""
    pixels = scene.pixels.copy()
    inside = np.argwhere(scene.target.cells(grid, scene.image.size).reshape(grid))
    middle = inside[np.abs(inside - inside.mean(0)).sum(1).argmin()]
    rows, columns = (cell_edges(n, count) for n, count in zip(pixels.shape[:2], grid, strict=True))
    down, across = (int(np.diff(edges).min()) for edges in (rows, columns))

    def part(row: int, column: int) -> tuple[slice, slice]:
        top, left = int(rows[row]), int(columns[column])
        return slice(top, top + down), slice(left, left + across)

    pixels[part(*cell)] = pixels[part(*middle)].copy()
    return Image.fromarray(pixels)


def _arrival(change: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return row and column at which a change arrives, `[scene, 2]`; NaN where none does."""
    laid = change.reshape(-1, *grid)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    found = torch.full((len(laid), 2), torch.nan, dtype=torch.float64)
    for at, one in enumerate(laid):
        if float(one.max()) <= 0:
            continue
        peak = int(one.argmax())
        row, column = divmod(peak, grid[1])
        near = ((rows - row).abs() <= 1) & ((columns - column).abs() <= 1)
        weight = one * near
        found[at, 0] = (weight * rows).sum() / weight.sum()
        found[at, 1] = (weight * columns).sum() / weight.sum()
    return found


def _missed(lab: Lab, taken: Mapping[str, Callable[[Picture], Picture]]) -> str:
    """Return what can be taken from pictures without any scorer's notice."""
    clean = _values(lab.clean, lab)
    for what, take in taken.items():
        after = _values(lab.run_on([take(scene.image) for scene in lab.scenes]), lab)
        if all(
            float((after[name] - value).abs().max()) <= DEAF * float(value.abs().max())
            for name, value in clean.items()
        ):
            return f"pictures without {what} are the same to {_named(clean)}"
    return ""


def _named(found: Mapping[str, object]) -> str:
    return " and ".join(name.replace("_", " ") for name in found)
