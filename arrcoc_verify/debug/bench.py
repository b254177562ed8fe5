"""The bench on which one case is debugged: the case many times over, beside its donors.

A restoration is tried once for each resample of the donors, all in one pass: the finished run of
the case is repeated, and only what lies downstream of the edit is computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.debug.case import Case, Goal, region_cells
from arrcoc_verify.errors import ArrcocError, UsageError
from arrcoc_verify.graph import Chunk, Edit, Run, resume, run
from arrcoc_verify.lab import scene_size
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Model, Output, Site, patches_last
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.scene import Scene

DRAWS = 24
"""Resamples of the donors behind each interval."""

DONOR_ROLES = ("donor", "select")
"""Roles of the photographs that donors are made of; nothing is asserted on them."""


def inner_sites(model: Model) -> list[str]:
    """Return the sites inside steps that have a role, which runs must be told to keep."""
    return [
        site.name for site in model.sites.values() if site.role and not isinstance(site.at, Output)
    ]


def repeated(base: Run, count: int) -> Run:
    """Return a finished run of one example as a run of `count` equal examples.

    What the steps returned is repeated; where a step returned something that cannot be (an object
    of a library), the model is run on as many copies.
    """
    if len(base) != 1:
        raise ArrcocError(f"wanted a run of one example to repeat, got {len(base)}")
    images, queries = [*base.images] * count, [*base.queries] * count
    (chunk,) = base.chunks
    many = count if base.model.declaration.batch_invariant else 1
    try:
        outputs = {name: _tiled(value, many) for name, value in chunk.outputs.items()}
        read = {name: _tiled(value, many) for name, value in chunk.read.items()}
    except TypeError:
        return run(base.model, images, queries, read=list(chunk.read))
    chunks = [
        Chunk(rows=slice(start, start + many), outputs=dict(outputs), read=dict(read))
        for start in range(0, count, many)
    ]
    return replace(base, images=images, queries=queries, chunks=chunks)


def _tiled(value: Any, many: int) -> Any:
    if isinstance(value, Tensor):
        alone = value.ndim > 0 and value.shape[0] == 1
        return value.expand(many, *value.shape[1:]).clone() if alone else value
    if type(value) is dict:
        return {key: _tiled(item, many) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_tiled(item, many) for item in value)
    if value is None or isinstance(value, int | float | str | bool):
        return value
    raise TypeError(type(value).__name__)


def native(values: Tensor, site: Site, like: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a map `[image, patch]` in a site's own layout and number type.

    Args:
        values: one number a patch.
        site: where it is to be written; it holds one number a patch.
        like: an activation of that site, for its other axes.
        grid: rows and columns.
    """
    axes = [axis for axis in site.axes if axis in ("image", "patch", "row", "column")]
    shaped = values if "patch" in axes else values.reshape(len(values), *grid)
    have = ["image", "patch"] if "patch" in axes else ["image", "row", "column"]
    shaped = shaped.permute([have.index(axis) for axis in axes])
    for place, axis in enumerate(site.axes):
        if axis not in axes:
            shaped = shaped.unsqueeze(place)
    wide = (len(values), *like.shape[1:])
    if not like.is_floating_point():
        shaped = shaped.round()
    return shaped.to(like.dtype).expand(wide).clone()


def flat_map(value: Tensor, site: Site, grid: tuple[int, int]) -> Tensor:
    """Return a map in a site's own layout as `[image, patch]` float64; `native` takes it back."""
    flat = patches_last(value, site, grid).double()
    return flat[..., 0] if flat.ndim == 3 else flat


@dataclass(frozen=True, kw_only=True, eq=False)
class Donors:
    """Queried objects elsewhere, and what the model gave them.

    Attributes:
        scenes: composed scenes of photographs that nothing is asserted on, or a user's own.
        ran: the model on them; None where there are no scenes.
        cells: `[scene, patch]`, the queried object.
    """

    scenes: tuple[Scene, ...]
    ran: Run | None
    cells: Tensor

    @property
    def run(self) -> Run:
        """The model on the scenes.

        Raises:
            UsageError: there are none.
        """
        if self.ran is None:
            raise UsageError("there are no donors: give some by --donors CSV")
        return self.ran

    @property
    def tokens(self) -> Tensor:
        """Mean tokens per patch of each donor's object, `[scene]`."""
        return mean_over(self.run.allocation.tokens, self.cells)

    @property
    def clusters(self) -> list[str]:
        """Name of the independent cluster behind each donor."""
        return [scene.cluster for scene in self.scenes]


def donor_scenes(model: Model, seed: int = 0) -> tuple[Scene, ...]:
    """Return the donors that come with the package, on the model's grid."""
    grid, size = model.declaration.grid, scene_size(model)
    return tuple(
        scene
        for role in DONOR_ROLES
        for scene in scenes(role, grid=grid, size=size, per_cluster=2, seed=seed)
    )


def make_donors(model: Model, found: Sequence[Scene], *, boxed: bool = False) -> Donors:
    """Run the model on donor scenes.

    Args:
        model: what is run.
        found: scenes, each with a queried object.
        boxed: measure objects by their boxes, for a case of which no more than the box is known:
            a box holds background, too, and gets less than the object in it.
    """
    images = [scene.image for scene in found]
    queries = [scene.query for scene in found]
    cells = torch.stack(
        [
            region_cells(
                replace(s.target, mask=None) if boxed else s.target,
                model.declaration.grid,
                s.image.size,
            )
            for s in found
        ]
    )
    result = run(model, images, queries, read=inner_sites(model))
    return Donors(scenes=tuple(found), ran=result, cells=cells)


class Bench:
    """One case on one model, with donors.

    Attributes:
        model: model under test.
        case: what failed.
        donors: queried objects elsewhere.
        grid: rows and columns.
        seed: of every draw.
    """

    def __init__(
        self, model: Model, case: Case, donors: Donors, seed: int = 0, clean: Run | None = None
    ) -> None:
        """Take a case and donors that have been run; `clean` is the case's run, if there is one."""
        self.model, self.case, self.donors, self.seed = model, case, donors, seed
        self._clean = clean
        self.grid = model.declaration.grid
        self.inner = inner_sites(model)

    @cached_property
    def clean(self) -> Run:
        """The case, once."""
        if self._clean is not None:
            return self._clean
        return self.run_on([self.case.image], [self.case.query])

    def run_on(self, images: Sequence[Image.Image], queries: Sequence[str]) -> Run:
        """Run the model on pictures, with the sites that are read later."""
        return run(self.model, list(images), list(queries), read=self.inner)

    @cached_property
    def many(self) -> Run:
        """The case, `DRAWS` times."""
        return repeated(self.clean, DRAWS)

    def tokens(self, result: Run) -> Tensor:
        """Return the region's mean tokens per patch in each example, `[image]`."""
        values = result.allocation.tokens
        return mean_over(values, self.case.cells.expand(len(values), -1))

    @cached_property
    def before(self) -> float:
        """Mean tokens per patch that the region gets."""
        return float(self.tokens(self.clean)[0])

    def writable(self, *roles: str) -> Site | None:
        """Return the first of these roles' sites that can be written, or None."""
        for role in roles:
            site = self.model.role(role)
            if site is not None and site.writable:
                return site
        return None

    def map(self, result: Run, role: str) -> Tensor | None:
        """Return the map with a role as `[image, patch]` float64; None where there is none."""
        site = self.model.role(role)
        if site is None or not site.per_patch:
            return None
        value = patches_last(result[site.name], site, self.grid).double()
        if value.ndim == 3 and value.shape[2] == 1:
            value = value[..., 0]
        return value if value.ndim == 2 else None

    def vector(self, result: Run, role: str) -> Tensor | None:
        """Return weights or tensions as `[image, channel]`, averaged over patches."""
        site = self.model.role(role)
        if site is None or "channel" not in site.axes:
            return None
        value = result[site.name].double().movedim(site.axes.index("channel"), -1)
        return value.reshape(value.shape[0], -1, value.shape[-1]).mean(1)

    def write_map(self, role: str, values: Tensor) -> Edit:
        """Return the edit that writes a map `[draw, patch]` at a role's site."""
        site = self.model.role(role)
        if site is None:
            raise ArrcocError(f"{self.model.name} has no site with role {role!r}")
        like = self.clean[site.name]
        return Edit(
            site=site.name, value=native(values, site, like, self.grid), label=f"write {role}"
        )

    def write_vector(self, role: str, values: Tensor) -> Edit:
        """Return the edit that writes `[draw, channel]` at a role's site, in every patch alike."""
        site = self.model.role(role)
        if site is None:
            raise ArrcocError(f"{self.model.name} has no site with role {role!r}")
        like = self.clean[site.name]
        shape = [1] * like.ndim
        shape[0], shape[site.axes.index("channel")] = values.shape
        wide = values.reshape(shape).expand(len(values), *like.shape[1:])
        return Edit(site=site.name, value=wide.to(like.dtype).clone(), label=f"write {role}")

    def after(self, edits: Sequence[Edit], base: Run | None = None) -> Run:
        """Return the repeated case with edits written."""
        return resume(base or self.many, edits=edits, read=self.inner)

    def right(self, goal: Goal) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which donors got what the goal asks, `[scene]`; empty where there are none."""
        if not self.donors.scenes:
            return np.zeros(0, dtype=bool)
        return np.asarray(goal.met(self.donors.tokens))
