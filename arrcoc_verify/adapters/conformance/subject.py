"""The model that is checked, with test pictures, and what its runs are compared by."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from arrcoc_verify.adapters.pictures import QUERIES, pictures
from arrcoc_verify.attach import inner
from arrcoc_verify.errors import ShapeMismatch, UsageError
from arrcoc_verify.graph import Edit, Run, run
from arrcoc_verify.model import Model, ModuleInput, ModuleOutput, Output, Site, Step

Judged = tuple[bool | None, str]
"""Whether a check passed (None: nothing to check) and why."""

PAIR = (0, 2)
"""Two unlike pictures, for checks that run once a site."""
ALLOCATION = ("relevance", "tokens", "membership")


@dataclass(kw_only=True)
class Subject:
    """A model with pictures and queries of different kinds.

    Attributes:
        model: what is checked.
        images: four or more pictures.
        queries: one a picture.
        firing: sites that fire exactly once, known after that check.
    """

    model: Model
    images: list[Image.Image]
    queries: list[str]
    firing: tuple[str, ...] = ()
    _base: Run | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, model: Model, images: Sequence[Image.Image] | None, queries: Sequence[str] | None
    ) -> "Subject":
        """Return a subject with the given pictures, or with pictures made here."""
        own = images is None or queries is None
        if not own and not 4 <= len(images or ()) == len(queries or ()):
            raise UsageError("conformance wants four pictures or more, each with a query")
        return cls(
            model=model,
            images=_made(model.declaration.image_size) if own else list(images or ()),
            queries=list(QUERIES) if own else list(queries or ()),
        )

    def run(
        self,
        rows: Sequence[int] | None = None,
        *,
        edits: Iterable[Edit] = (),
        read: Iterable[str] = (),
        batch_size: int | None = None,
        model: Model | None = None,
    ) -> Run:
        """Return a fresh run on copies of the pictures, so that nothing is known by identity."""
        rows = range(len(self.images)) if rows is None else rows
        return run(
            model or self.model,
            [self.images[row].copy() for row in rows],
            [self.queries[row] for row in rows],
            edits=edits,
            read=read,
            batch_size=batch_size,
        )

    @property
    def base(self) -> Run:
        """A run of the pictures in `PAIR`, with every site that fires."""
        if self._base is None:
            self._base = self.run(PAIR, read=self.firing)
        return self._base

    def value(self, site: Site) -> Tensor | None:
        """Return the activation at a site, or None where its shape varies from batch to batch."""
        try:
            return self.base[site.name]
        except ShapeMismatch:
            return None

    @property
    def sites(self) -> list[Site]:
        """Sites that fire exactly once."""
        return [self.model.site(name) for name in self.firing]

    def module_sites(self) -> list[tuple[Site, nn.Module]]:
        """Return the sites at torch modules, with their modules."""
        return [
            (site, site.at.module)
            for site in self.sites
            if isinstance(site.at, ModuleOutput | ModuleInput)
        ]

    def parts(self) -> list[nn.Module]:
        """Return every torch module of the model, each once."""
        return list({id(m): m for root in self.model.modules for m in root.modules()}.values())


def _made(size: tuple[int, int]) -> list[Image.Image]:
    """Return two scenes, a faint and a violent picture: mates that a batch can be coupled by."""
    scenes = pictures(2, size)
    generator = np.random.default_rng(7)
    height, width = size
    faint = generator.normal(128, 3, (height, width, 3))
    faint += np.linspace(-12, 12, width)[None, :, None]
    violent = np.kron(generator.integers(0, 2, (8, 8, 3)) * 255, np.ones((height, width, 1)))
    violent = violent[:: max(1, violent.shape[0] // height)][:height]
    violent = violent[:, :: max(1, violent.shape[1] // width)][:, :width]
    extra = [Image.fromarray(a.clip(0, 255).astype(np.uint8)) for a in (faint, violent)]
    return [scenes[0], extra[0], extra[1], scenes[1]]


def everything(found: Run) -> dict[str, Tensor]:
    """Return every tensor that a run holds: results of steps and readings, by name."""
    values: dict[str, Tensor] = {}
    for index, chunk in enumerate(found.chunks):
        for name, output in chunk.outputs.items():
            for path, tensor in _tensors(output):
                values[f"{index}:{name}{path}"] = tensor
        for name, tensor in chunk.read.items():
            values[f"{index}:site {name}"] = tensor
    return values


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for key, item in enumerate(value):
            yield from _tensors(item, f"{path}.{key}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for part in dataclasses.fields(value):
            yield from _tensors(getattr(value, part.name), f"{path}.{part.name}")


def decided(found: Run, *, without: str | None = None) -> dict[str, Tensor]:
    """Return what a run decided: allocation sites, and results that no other step reads.

    Args:
        found: the run.
        without: a step whose own result does not count.
    """
    model = found.model
    sources = {source.partition(".")[0] for step in model.steps for source in step.inputs}
    ends = {step.name for step in model.steps if step.lazy}
    kept: dict[str, Tensor] = {}
    for index, chunk in enumerate(found.chunks):
        for name, output in chunk.outputs.items():
            if name not in sources and name != without:
                kept.update({f"{index}:{name}{p}": t for p, t in _tensors(output)})
        for name in chunk.read:  # of steps that run only when they are asked for
            at = model.site(name).at
            if at.step in ends and at.step not in sources and at.step != without:
                kept[f"{index}:site {name}"] = chunk.read[name]
    for role in ALLOCATION:
        site = model.role(role)
        own = site is not None and isinstance(site.at, Output) and site.at.step == without
        if site is None or own or (inner(site) and not _was_read(found, site.name)):
            continue
        kept[f"role {role}"] = found[site.name]
    return kept


def _was_read(found: Run, name: str) -> bool:
    return all(name in chunk.read for chunk in found.chunks)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names under which two runs do not hold the same bits."""
    names = [name for name in one if name in other]
    return [name for name in names if not same(one[name], other[name])]


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same bits (NaN equals NaN)."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point():
        return bool(torch.equal(one.isnan(), other.isnan())) and bool(
            torch.equal(one.nan_to_num(), other.nan_to_num())
        )
    return bool(torch.equal(one, other))


def with_steps(model: Model, wrap: Callable[[Step], Callable[..., Any]]) -> Model:
    """Return the model with every step's callable replaced by what `wrap` makes of it."""
    steps = tuple(dataclasses.replace(step, run=wrap(step)) for step in model.steps)
    return dataclasses.replace(model, steps=steps)


@contextmanager
def kept_modes(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put back the training mode of every module after the block."""
    held = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, training in held:
            module.training = training


def listed(names: Iterable[str], most: int = 4) -> str:
    """Return names as text, the first few of them."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
