"""A finished run, and one pass over a model's steps for a part of its images.

A pass computes what is not there or no longer holds, writes edits where they belong and keeps what
is to be read; whatever an edit or reading was meant to meet and did not raises.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.attach import (
    Visit,
    attached,
    copied,
    entry,
    inner,
    pick,
    put,
    refuse_compiled,
)
from arrcoc_verify.edit import Edit, apply, by_site, laid_out_like
from arrcoc_verify.errors import (
    BadModel,
    NonFinite,
    ShapeMismatch,
    SiteDidNotFire,
    SiteFiredTwice,
    UsageError,
)
from arrcoc_verify.model import Allocation, Model, Output, Site, Step, all_finite, patches_last

ALLOCATED = ("relevance", "tokens", "membership")
"""Roles that every run reads, so that it can always tell what was allocated."""


@dataclass(kw_only=True)
class Chunk:
    """A part of a run's images that went through the model together."""

    rows: slice
    outputs: dict[str, Any]
    read: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished pass of a model over images and queries.

    Attributes:
        model: what ran.
        images: pictures, one an example.
        queries: texts, one an example.
        chunks: results by part.
        edits: what was written.
        changed: site -> largest absolute change that its edits made to the activation they met.
    """

    model: Model
    images: Sequence[Image.Image]
    queries: Sequence[str]
    chunks: list[Chunk]
    edits: tuple[Edit, ...] = ()
    changed: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.queries)

    def __getitem__(self, name: str) -> Tensor:
        """Return the activation at a site for all examples, in the site's own layout."""
        site = self.model.site(name)
        parts = []
        for chunk in self.chunks:
            if name in chunk.read:
                parts.append(chunk.read[name])
            elif isinstance(site.at, Output) and site.at.step in chunk.outputs:
                parts.append(pick(chunk.outputs[site.at.step], site.at.key, site))
            else:
                raise UsageError(
                    f"site {name!r} was not read in this run; name it in `read` when running"
                )
        if len(shapes := {tuple(part.shape[1:]) for part in parts}) > 1:
            raise ShapeMismatch(
                f"site {name!r} has another shape in each batch ({sorted(shapes)}), such as a "
                "text's length: read it from one batch"
            )
        return torch.cat(parts)

    def role(self, role: str) -> Tensor | None:
        """Return the activation of the site with `role`, or None where the model has none."""
        site = self.model.role(role)
        return None if site is None else self[site.name]

    @property
    def allocation(self) -> Allocation:
        """What was decided, `[image, patch]` each, in float64."""
        grid = self.model.declaration.grid

        def read(role: str) -> Tensor | None:
            site = self.model.role(role)
            if site is None:
                return None
            value = patches_last(self[site.name], site, grid)
            if value.ndim == 3 and value.shape[2] == 1:  # what a linear head of one output returns
                value = value[..., 0]
            if value.ndim != 2:
                raise ShapeMismatch(
                    f"site {site.name!r} with role {role!r} must hold one number a patch, "
                    f"got {tuple(value.shape)}"
                )
            return value.double()

        tokens, member = read("tokens"), read("membership")
        relevance = read("relevance")
        kept = member if member is not None else torch.ones_like(_some(tokens))
        tokens = tokens if tokens is not None else kept
        return Allocation(
            relevance=relevance if relevance is not None else tokens,
            tokens=tokens,
            membership=kept > 0.5,
        )


class Walker:
    """One pass over the steps for one chunk."""

    def __init__(
        self,
        base: Run,
        chunk: Chunk,
        edits: Sequence[Edit],
        read: tuple[str, ...],
        changed: dict[str, float],
    ) -> None:
        self.model, self.chunk, self.changed = base.model, chunk, changed
        allocated = [site.name for site in map(self.model.role, ALLOCATED) if site and inner(site)]
        self.read = (*read, *allocated)
        self.steps = {step.name: step for step in self.model.steps}
        self.edits = by_site(edits, chunk.rows)
        self.before = by_site(base.edits, chunk.rows)  # in the cached results already
        self.roots = {"images": base.images[chunk.rows], "queries": base.queries[chunk.rows]}
        self.sites = self._by_step([*self.edits, *read])
        self.allocated = self._by_step(allocated)
        self.kept: dict[str, Tensor] = {}
        self.outputs: dict[str, Any] = {}
        self.fired: Counter[str] = Counter()

    def _by_step(self, names: Iterable[str]) -> dict[str, list[Site]]:
        found: dict[str, list[Site]] = {}
        for name in dict.fromkeys(names):
            site = self.model.site(name)
            found.setdefault(site.at.step, []).append(site)
        return found

    def walk(self, *, fresh: bool, dirty: set[str]) -> Chunk:
        """Compute what `dirty` names and edits reach, or everything when fresh; check firings."""
        before = self._by_step(self.before)
        remade: set[str] = set()
        for step in self.model.steps:
            here = self.sites.get(step.name, [])
            stale = (
                fresh
                or not dirty.isdisjoint(_sources(step.inputs))
                or any(inner(site) for site in here)
            )
            if stale and step.lazy and not here:
                dirty.add(step.name)
                continue
            if stale:  # made anew: write again what was written, read what the allocation is
                again = [*before.get(step.name, ()), *self.allocated.get(step.name, ())]
                here = list(dict.fromkeys([*again, *here])) if again else here
                self.sites[step.name] = here
            edited = any(site.name in self.edits for site in here)
            if stale or edited or any(not inner(site) for site in here):
                self._visit(step, here, stale=stale)
            if stale or edited:
                dirty.add(step.name)
            if stale:
                remade.add(step.name)
        self._require_fired()
        merged = self.outputs if fresh else {**self.chunk.outputs, **self.outputs}
        keep = {s.name for s in self.model.steps if not (s.transient or s.lazy)}
        reads = dict(self.kept) if fresh else {**self._still_valid(dirty, remade), **self.kept}
        return Chunk(
            rows=self.chunk.rows,
            outputs={name: value for name, value in merged.items() if name in keep},
            read=reads,
        )

    def _still_valid(self, dirty: set[str], remade: set[str]) -> dict[str, Tensor]:
        """Return what was read before and stands: inside a step, unless it was run again."""
        sites = {name: self.model.site(name) for name in self.chunk.read}
        gone = {
            n for n, site in sites.items() if site.at.step in (remade if inner(site) else dirty)
        }
        return {name: value for name, value in self.chunk.read.items() if name not in gone}

    def _visit(self, step: Step, here: list[Site], *, stale: bool) -> None:
        replaced = self._replaced(step, here)
        if replaced is not None:
            output = replaced
        elif stale:
            output, fired = self._compute(step, here, self._seen)
            self.fired.update(fired)
        else:
            output = self._cached(step)
        for site in here:
            if isinstance(site.at, Output):
                old = pick(output, site.at.key, site)
                self.fired[site.name] += 1
                new = old if replaced is not None else self._edited(site, old, stale=stale)
                if new is not old:
                    output = put(output, site.at.key, new)
                if site.name in self.read:
                    self.kept[site.name] = new
        if not (self.edits or self.before or all_finite(output)):
            raise NonFinite(
                f"step {step.name!r} of {self.model.name!r} returned NaN or infinity on "
                f"{self._which(output)}"
            )
        self.outputs[step.name] = output

    def _which(self, output: Any) -> str:
        entries = list(output.values()) if isinstance(output, Mapping) else output
        if isinstance(entries, list | tuple):
            output = next((item for item in entries if not all_finite(item)), None)
        if isinstance(output, Tensor) and output.ndim:
            flat = ~torch.isfinite(output.flatten(1) if output.ndim > 1 else output[:, None])
            bad = flat.any(1).nonzero().flatten().tolist()
            return f"queries {[self.roots['queries'][i] for i in bad[:3]]}"
        return "some input"

    def _replaced(self, step: Step, here: list[Site]) -> Tensor | None:
        """Return the value that replaces the whole result, so that the step need not run at all."""
        for site in here:
            edits = self.edits.get(site.name, [])
            whole = isinstance(site.at, Output) and site.at.key is None
            if whole and edits and edits[-1].value is not None and edits[-1].where is None:
                value = edits[-1].value  # whatever earlier edits wrote, this overwrites
                count = len(self.roots["queries"])
                if len(here) == 1 and value.ndim == len(site.axes) and value.shape[0] == count:
                    cached = self.chunk.outputs.get(step.name)
                    if isinstance(cached, Tensor) and cached.shape == value.shape:
                        value = laid_out_like(value.to(cached), cached)
                        self._note(site, cached, value)
                        return value
        return None

    def _cached(self, step: Step) -> Any:
        if step.name in self.outputs:
            return self.outputs[step.name]
        if step.name in self.chunk.outputs:
            return self.chunk.outputs[step.name]
        # Transient: made again, with what was written in it before, and kept while this pass lasts.
        sites = self._by_step(self.before).get(step.name, [])
        output, _ = self._compute(step, sites, self._restored)
        for site in sites:
            if isinstance(site.at, Output):
                old = pick(output, site.at.key, site)
                output = put(output, site.at.key, self._restored(site, old))
        self.outputs[step.name] = output
        return output

    def _input(self, source: str) -> Any:
        name, _, key = source.partition(".")
        if name in self.roots:
            return self.roots[name]
        value = self._cached(self.steps[name])
        if not key:
            return value
        try:
            return entry(value, key)
        except (LookupError, AttributeError, TypeError) as error:
            raise BadModel(f"step {name!r} returned nothing under {key!r}: {error}") from error

    def _compute(self, step: Step, sites: Iterable[Site], visit: Visit) -> tuple[Any, Counter[str]]:
        """Return the step's result with `visit` at its inner sites, and how often these fired."""
        inputs = [self._input(source) for source in step.inputs]
        if not step.pure:
            inputs = [copied(value) for value in inputs]
        inside = [site for site in sites if inner(site)]
        fired: Counter[str] = Counter()
        if inside:
            with attached(inside, visit, self.model.modules) as fired:
                output = step.run(*inputs)
        else:
            output = step.run(*inputs)
        if output is None:
            raise BadModel(f"step {step.name!r} returned nothing; it must return a tensor")
        return output, fired

    def _seen(self, site: Site, value: Tensor) -> Tensor:
        new = self._edited(site, value, stale=True)
        if site.name in self.read:
            self.kept[site.name] = new.clone()  # a later in-place module must not change it
        return new

    def _restored(self, site: Site, value: Tensor) -> Tensor:
        """Return the activation as the edits of the base run left it."""
        return self._written(site, value, self.before)

    def _edited(self, site: Site, value: Tensor, *, stale: bool) -> Tensor:
        start = self._restored(site, value) if stale else value
        new = self._written(site, start, self.edits)
        if site.name in self.edits:
            self._note(site, start, new)
        return new

    def _written(self, site: Site, value: Tensor, edits: Mapping[str, list[Edit]]) -> Tensor:
        for edit in edits.get(site.name, ()):
            value = apply(edit, site, value, self.model.declaration.grid)
        return value

    def _note(self, site: Site, old: Tensor, new: Tensor) -> None:
        if old.shape != new.shape:
            raise ShapeMismatch(
                f"site {site.name!r} holds {tuple(old.shape)}, the edit wrote {tuple(new.shape)}"
            )
        before, after = (old, new) if old.is_floating_point() else (old.double(), new.double())
        moved = float((after - before).abs().max()) if old.numel() else 0.0
        self.changed[site.name] = max(self.changed.get(site.name, 0.0), moved)

    def _require_fired(self) -> None:
        for site in (s for sites in self.sites.values() for s in sites):
            if self.fired[site.name] == 0:
                refuse_compiled(self.model.modules, site)
                raise SiteDidNotFire(
                    f"site {site.name!r} ({type(site.at).__name__} in step {site.at.step!r}) met "
                    "no activation: the branch was skipped, the function is held where it cannot "
                    "be wrapped (a closure or a table), or the module was compiled"
                )
            if inner(site) and self.fired[site.name] > 1:
                raise SiteFiredTwice(
                    f"site {site.name!r} fired {self.fired[site.name]} times in one run; declare "
                    "the occurrence that is meant as a step of its own, or by a tap"
                )


@functools.cache
def _sources(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the steps and roots that these inputs lie in."""
    return tuple(source.split(".")[0] for source in inputs)


def _some(value: Tensor | None) -> Tensor:
    if value is None:
        raise BadModel("the model has neither tokens nor membership to read")
    return value
