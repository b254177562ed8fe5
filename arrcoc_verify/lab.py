"""The bench on which claims are measured: one model, its scenes, and runs that are shared.

Each scene is run once; other queries, edited pictures and interventions start from there. Readings
are per scene and are averaged inside their clusters before any statistics.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from arrcoc_verify.effect import frozen_for, matched_elsewhere
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.graph import Edit, Run, ask, resume, run
from arrcoc_verify.intervention import freeze
from arrcoc_verify.metric import METRICS, mean_over
from arrcoc_verify.model import Model, Site, patches_last
from arrcoc_verify.scenes import edits as picture_edits
from arrcoc_verify.scenes.scene import Scene

FULL_RANGE = 336.0
"""Tokens between the fewest and the most of a patch, 64 and 400."""


class NotApplicable(ArrcocError):
    """The model has nothing of what a claim or gate is about; the message says what it lacks."""


class Lab:
    """A model and its scenes, with runs computed once.

    Attributes:
        model: model under test.
        scenes: what is asserted on.
        grid: rows and columns of patches.
        seed: of every draw.
        scale: lab that says how large a score's natural spread is; None for this one. Units of
            margins are thus fixed on scenes that nothing is asserted on.
    """

    def __init__(
        self, model: Model, scenes: Sequence[Scene], seed: int = 0, scale: "Lab | None" = None
    ) -> None:
        """Take a model and at least one scene of its declared image size."""
        self.scale = scale
        self.model, self.scenes, self.seed = model, tuple(scenes), seed
        self.grid = model.declaration.grid
        self._runs: dict[str, Run] = {}

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    @cached_property
    def target(self) -> Tensor:
        """Mask `[scene, patch]` of what is asked for."""
        return self._mask(lambda scene: scene.target)

    @cached_property
    def distractor(self) -> Tensor:
        """Mask `[scene, patch]` of the other object."""
        if any(scene.distractor is None for scene in self.scenes):
            raise NotApplicable("some scenes have no second object to ask for")
        return self._mask(lambda scene: scene.distractor)

    @cached_property
    def elsewhere(self) -> Tensor:
        """Mask `[scene, patch]` of a region like the target at another place: where placebos go."""
        objects = self.target.clone()
        if all(scene.distractor is not None for scene in self.scenes):
            objects |= self.distractor
        return matched_elsewhere(self.target, objects, self.grid, self.seed)

    def _mask(self, region: Callable[[Scene], object]) -> Tensor:
        rows = [region(scene).cells(self.grid, scene.image.size) for scene in self.scenes]  # type: ignore[attr-defined]
        return torch.as_tensor(np.stack(rows))

    def need(self, *roles: str) -> list[Site]:
        """Return the sites with these roles.

        Raises:
            NotApplicable: the model has no site for one of them.
        """
        found = []
        for role in roles:
            site = self.model.role(role)
            if site is None:
                raise NotApplicable(f"{self.model.name} declares no site with role {role!r}")
            found.append(site)
        return found

    # Runs

    def kept(self, name: str, make: Callable[[], Run]) -> Run:
        """Return the run filed under `name`, made on first use."""
        if name not in self._runs:
            self._runs[name] = make()
        return self._runs[name]

    @property
    def inner_sites(self) -> list[str]:
        """Sites inside steps that have a role, which runs must be told to keep."""
        steps = {"Output"}
        return [
            site.name
            for site in self.model.sites.values()
            if site.role and type(site.at).__name__ not in steps
        ]

    @property
    def clean(self) -> Run:
        """Each scene with its own query."""
        return self.kept("clean", lambda: self.run_on([scene.image for scene in self.scenes]))

    def run_on(self, images: Sequence[Image.Image], queries: Sequence[str] | None = None) -> Run:
        """Run the model on other pictures, with the scenes' queries unless others are given."""
        asked = queries if queries is not None else [scene.query for scene in self.scenes]
        return run(self.model, list(images), list(asked), read=self.inner_sites)

    def asked(self, kind: str) -> Run:
        """Each scene with another query: `other`, `paraphrase`, `absent`, `nonsense`, or a text."""
        names = {
            "other": "other_query", "paraphrase": "paraphrase",
            "absent": "absent_query", "nonsense": "nonsense",
        }  # fmt: skip
        queries = [
            (getattr(scene, names[kind]) or "") if kind in names else kind for scene in self.scenes
        ]
        if not all(queries):
            raise NotApplicable(f"some scenes have no {kind} query")
        return self.kept(f"asked:{kind}", lambda: ask(self.clean, queries, read=self.inner_sites))

    def edited(
        self, factor: str, level: float, where: str = "target", kind: str | None = None
    ) -> Run:
        """Each scene with `information` or `salience` of a region set to a dose in 0..1."""

        def make() -> Run:
            scenes = self.edited_scenes(factor, level, where)
            return self.run_on([scene.image for scene in scenes])

        whole = self.kept(f"{factor}:{level}:{where}", make)
        if kind is None:
            return whole
        queries = list(self.asked(kind).queries)
        return self.kept(f"{factor}:{level}:{where}:{kind}", lambda: ask(whole, queries))

    def edited_scenes(self, factor: str, level: float, where: str = "target") -> list[Scene]:
        """Return the scenes with one factor of a region set to a dose in 0..1."""
        edited = []
        for index, scene in enumerate(self.scenes):
            mask = torch.ones_like(self.target) if where == "everywhere" else getattr(self, where)
            cells = mask[index].numpy()
            if factor == "information":
                edited.append(
                    picture_edits.edit_information(
                        scene, level, grid=self.grid, where=cells, seed=self.seed
                    )
                )
            else:
                edited.append(
                    picture_edits.edit_salience(scene, level, grid=self.grid, where=cells)
                )
        return edited

    # Readings

    def map(self, result: Run, role: str) -> Tensor:
        """Return the map with a role as `[scene, patch]`, float64."""
        (site,) = self.need(role)
        value = patches_last(result[site.name], site, self.grid).double()
        if value.ndim == 3:
            raise NotApplicable(f"site {site.name!r} holds a vector a patch, not one number")
        return value

    def vector(self, result: Run, role: str, names: Sequence[str]) -> Tensor:
        """Return weights or tensions as `[scene, name]`, averaged over patches where they vary."""
        (site,) = self.need(role)
        value = result[site.name].double()
        if "channel" not in site.axes:
            raise NotApplicable(f"site {site.name!r} has no channel axis to tell {names} apart")
        value = value.movedim(site.axes.index("channel"), -1)
        value = value.reshape(value.shape[0], -1, value.shape[-1]).mean(1)
        return value[:, [self.channel(role, name, names) for name in names]]

    def channel(self, role: str, name: str, names: Sequence[str]) -> int:
        """Return the channel of a site that a name stands for.

        By the site's own channel names where it has them, else in the order of `names`.

        Raises:
            NotApplicable: the site has no such channel.
        """
        (site,) = self.need(role)
        if site.channels:
            if name not in site.channels:
                raise NotApplicable(
                    f"site {site.name!r} has the channels {', '.join(site.channels)}, "
                    f"none is {name!r}"
                )
            return site.channels.index(name)
        count = self.clean[site.name].shape[site.axes.index("channel")]
        if count != len(names):
            raise NotApplicable(
                f"site {site.name!r} has {count} channels without names, "
                f"the claim needs {len(names)}"
            )
        return names.index(name)

    def spread(self, role: str) -> float:
        """Return the natural size of a map: median over scenes of its standard deviation.

        At least a hundredth of the largest: where most maps are flat, readings of the others must
        not be counted in units of nothing.
        """
        if self.scale is not None:
            return self.scale.spread(role)
        each = self.map(self.clean, role).std(1, unbiased=False)
        return float(torch.maximum(each.median(), each.max() / 100))

    def over(self, result: Run, role: str, region: Tensor) -> Tensor:
        """Return the mean of a map over a region, in units of the map's spread, `[scene]`."""
        size = max(self.spread(role), float(torch.finfo(torch.float32).tiny))
        return mean_over(self.map(result, role), region) / size

    def moved(self, result: Run, role: str, base: Run | None = None) -> Tensor:
        """Return the root mean square change of a map against a run, in its spread, `[scene]`."""
        size = max(self.spread(role), float(torch.finfo(torch.float32).tiny))
        change = self.map(result, role) - self.map(base or self.clean, role)
        return change.square().mean(1).sqrt() / size

    @property
    def token_scale(self) -> float:
        """Factor that brings the model's range of tokens to that of 64..400.

        Margins in tokens then mean the same share of the range for every model: a keep mask counts
        as none or all of it.
        """
        ends = self.model.declaration.lod
        if ends is None or self.model.role("tokens") is None:
            return FULL_RANGE
        return FULL_RANGE / (ends[1] - ends[0]) if ends[1] > ends[0] else 1.0

    def tokens(self, result: Run, region: Tensor) -> Tensor:
        """Return the mean tokens a patch over a region, on the scale of 64..400, `[scene]`."""
        return METRICS["tokens"](result.allocation, region) * self.token_scale

    # Interventions

    def shifted(
        self, role: str, amount: float, region: Tensor | None, held: str = "total",
        base: Run | None = None,
    ) -> Run:  # fmt: skip
        """Add `amount` to a role's site over a region, with budget or repair frozen if asked.

        Args:
            role: whose site is written.
            amount: in the site's own unit.
            region: `[scene, patch]`, or None for all of it.
            held: `total`, `local` or `unrepaired`.
            base: run to start from; default the clean one.
        """
        (site,) = self.need(role)
        edit = Edit(site=site.name, write=lambda old: old + amount, where=region)
        return self.resumed([edit], held, base)

    def resumed(self, edits: Sequence[Edit], held: str = "total", base: Run | None = None) -> Run:
        """Apply edits to a run, with the multiplier (and weights, normalisers) frozen if asked."""
        start = base or self.clean
        frozen: list[str] | None = [] if held == "total" else frozen_for(self.model, held)
        if frozen is None:
            # Without a writable multiplier the budget's share cannot be taken out: say total.
            frozen = []
        written = {edit.site for edit in edits}  # to freeze these would undo the edit itself
        holds = [freeze(name, start) for name in frozen if name not in written]
        return resume(start, edits=[*edits, *holds], read=self.inner_sites)

    def clusters(self) -> list[str]:
        """Name of the independent cluster behind each scene."""
        return [scene.cluster for scene in self.scenes]

    def subset(self, keep: Sequence[int]) -> "Lab":
        """Return a lab on some of the scenes, with nothing computed yet."""
        return Lab(self.model, [self.scenes[i] for i in keep], self.seed, self.scale)

    def rolled(self, down: int, across: int) -> Run:
        """Run pictures moved by whole cells; what leaves comes in on the other side."""

        def make() -> Run:
            images = []
            for scene in self.scenes:
                height, width = scene.image.height, scene.image.width
                step = (down * height // self.grid[0], across * width // self.grid[1])
                images.append(Image.fromarray(np.roll(scene.pixels, step, (0, 1))))
            return self.run_on(images)

        return self.kept(f"rolled:{down}:{across}", make)

    def flipped(self) -> Run:
        """Run the mirror images."""
        return self.kept(
            "flipped",
            lambda: self.run_on(
                [s.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for s in self.scenes]
            ),
        )


def scene_size(model: Model) -> int:
    """Return the side in pixels at which square scenes of whole cells are made for a model."""
    rows, columns = model.declaration.grid
    step = int(np.lcm(rows, columns))
    side = max(model.declaration.image_size)
    return max(step, round(side / step) * step)


def by_cluster(
    values: Tensor | NDArray[np.float64], clusters: Sequence[str]
) -> NDArray[np.float64]:
    """Return means of per-scene values inside each cluster, in order of first appearance."""
    array = np.asarray(values, dtype=np.float64)
    order = list(dict.fromkeys(clusters))
    index = np.array([order.index(name) for name in clusters])
    return np.stack([array[index == at].mean(0) for at in range(len(order))])
