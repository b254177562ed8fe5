"""Run a model's graph, write into its sites, and recompute only what lies downstream.

`run` computes everything once and keeps the results of the steps; `resume` applies edits to a
finished run and recomputes the edited steps' descendants only, so a sweep over late stages costs
those stages and not the encoder (the flank that general libraries leave open). An edit that met no
activation raises: there is no silent no-op.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from arrcoc_verify.attach import attached, inner, pick, put, refuse_compiled
from arrcoc_verify.errors import (
    BadModel,
    BadQuery,
    NonFinite,
    ShapeMismatch,
    SiteDidNotFire,
    SiteFiredTwice,
    TrainingMode,
    UsageError,
)
from arrcoc_verify.model import Allocation, Model, Output, Site, Step, all_finite, patches_last, spread

Write = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to write at a site.

    Attributes:
        site: name of the site.
        write: receives the activation, returns a new tensor of the same shape (never in place).
        value: set this in place of `write`: leading axis is the image, or size 1.
        where: `[image, patch]` or `[patch]` mask; None writes everywhere.
        label: how reports call it.
    """

    site: str
    write: Write | None = None
    value: Tensor | None = None
    where: Tensor | None = None
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse edits that would do nothing or two things."""
        if (self.write is None) == (self.value is None):
            raise UsageError(f"edit of {self.site!r} needs exactly one of `write` and `value`")
        if self.where is not None and not bool(self.where.any()):
            raise UsageError(f"edit of {self.site!r} selects no patch, so it would do nothing")

    def part(self, rows: slice) -> "Edit":
        """Return the edit for a slice of the images."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            wide = tensor is not None and tensor.ndim > 0 and tensor.shape[0] > 1
            return tensor[rows] if wide and tensor is not None else tensor

        where = self.where if self.where is None or self.where.ndim == 1 else cut(self.where)
        part = object.__new__(Edit)  # a slice may select no patch although the whole edit does
        for name, item in (
            ("site", self.site), ("write", self.write), ("value", cut(self.value)),
            ("where", where), ("label", self.label),
        ):  # fmt: skip
            object.__setattr__(part, name, item)
        return part


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


def run(
    model: Model,
    images: Sequence[Image.Image],
    queries: Sequence[str],
    *,
    edits: Iterable[Edit] = (),
    read: Iterable[str] = (),
    batch_size: int | None = None,
) -> Run:
    """Run `model` on images and queries, with `edits` written on the way.

    Args:
        model: model under test.
        images: RGB pictures, one an example.
        queries: texts, one an example.
        edits: applied in order at their sites.
        read: sites inside steps to keep; results of steps are kept anyway.
        batch_size: images that go through together; default is what the model declares.

    Raises:
        SiteDidNotFire: an edit or a reading met no activation.
        TrainingMode: a module of the model is in training mode.
    """
    if len(images) != len(queries) or not images:
        raise UsageError(f"as many queries as images, at least one; got {len(images)}, {len(queries)}")
    for query in queries:
        if not isinstance(query, str) or not query.strip():
            raise BadQuery(f"a query must be text that is not empty, got {query!r}")
    refuse_training(model)
    size = batch_size or (model.declaration.batch_size if model.declaration.batch_invariant else 1)
    chunks = [
        Chunk(rows=slice(start, min(start + size, len(images))), outputs={})
        for start in range(0, len(images), size)
    ]
    base = Run(model=model, images=images, queries=queries, chunks=chunks)
    return _walk(base, tuple(edits), tuple(read), fresh=True)


def resume(base: Run, *, edits: Iterable[Edit], read: Iterable[str] = ()) -> Run:
    """Return what `base` would have been with `edits`; only what lies downstream is computed again."""
    refuse_training(base.model)
    return _walk(base, tuple(edits), tuple(read), fresh=False)


def refuse_training(model: Model) -> None:
    """Raise when any module is in training mode: dropout and batch statistics would speak."""
    for module in model.modules:
        for name, part in module.named_modules():
            if part.training:
                raise TrainingMode(
                    f"module {name or type(part).__name__!r} of {model.name!r} is in training mode; "
                    "call .eval() before verifying"
                )


def _walk(base: Run, edits: tuple[Edit, ...], read: tuple[str, ...], *, fresh: bool) -> Run:
    for name in [edit.site for edit in edits] + list(read):
        base.model.site(name)
    changed: dict[str, float] = {}
    chunks = []
    with torch.no_grad():
        for chunk in base.chunks:
            walker = _Walker(base, chunk, [edit.part(chunk.rows) for edit in edits], read, changed)
            chunks.append(walker.walk(fresh=fresh))
    return replace(base, chunks=chunks, edits=(*base.edits, *edits), changed=changed)


class _Walker:
    """One pass over the steps for one chunk."""

    def __init__(
        self,
        base: Run,
        chunk: Chunk,
        edits: Sequence[Edit],
        read: tuple[str, ...],
        changed: dict[str, float],
    ) -> None:
        self.model, self.chunk, self.read, self.changed = base.model, chunk, read, changed
        self.edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(edit.site, []).append(edit)
        self.roots = {"images": base.images[chunk.rows], "queries": base.queries[chunk.rows]}
        self.sites: dict[str, list[Site]] = {}
        for name in dict.fromkeys([*self.edits, *read]):
            site = self.model.site(name)
            self.sites.setdefault(site.at.step, []).append(site)
        self.kept: dict[str, Tensor] = {}
        self.outputs: dict[str, Any] = {}
        self.fired: Counter[str] = Counter()

    def walk(self, *, fresh: bool) -> Chunk:
        dirty: set[str] = set()
        for step in self.model.steps:
            here = self.sites.get(step.name, [])
            stale = (
                fresh
                or any(source.split(".")[0] in dirty for source in step.inputs)
                or any(inner(site) for site in here)
            )
            edited = any(site.name in self.edits for site in here)
            if stale or edited or any(not inner(site) for site in here):
                self._visit(step, here, stale=stale)
            if stale or edited:
                dirty.add(step.name)
        self._require_fired()
        merged = self.outputs if fresh else {**self.chunk.outputs, **self.outputs}
        keep = {s.name for s in self.model.steps if not s.transient}
        reads = dict(self.kept) if fresh else {**self._still_valid(dirty), **self.kept}
        return Chunk(
            rows=self.chunk.rows,
            outputs={name: value for name, value in merged.items() if name in keep},
            read=reads,
        )

    def _still_valid(self, dirty: set[str]) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in self.chunk.read.items()
            if self.model.site(name).at.step not in dirty
        }

    def _visit(self, step: Step, here: list[Site], *, stale: bool) -> None:
        replaced = self._replaced(step, here)
        if replaced is not None:
            output = replaced
        else:
            output = self._compute(step, [s for s in here if inner(s)]) if stale else self._cached(step)
        for site in here:
            if isinstance(site.at, Output):
                old = pick(output, site.at.key, site)
                self.fired[site.name] += 1
                new = self._edited(site, old) if replaced is None else old
                if new is not old:
                    output = put(output, site.at.key, new)
                if site.name in self.read:
                    self.kept[site.name] = new
        if not all_finite(output) and not self.edits:
            raise NonFinite(
                f"step {step.name!r} of {self.model.name!r} returned NaN or infinity on "
                f"{self._which(output)}"
            )
        self.outputs[step.name] = output

    def _which(self, output: Any) -> str:
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
            if whole and len(edits) == 1 and edits[0].value is not None and edits[0].where is None:
                value = edits[0].value
                count = len(self.roots["queries"])
                if len(here) == 1 and value.ndim == len(site.axes) and value.shape[0] == count:
                    cached = self.chunk.outputs.get(step.name)
                    if isinstance(cached, Tensor) and cached.shape == value.shape:
                        self._note(site, cached, value)
                        return value
        return None

    def _cached(self, step: Step) -> Any:
        if step.name in self.outputs:
            return self.outputs[step.name]
        if step.name in self.chunk.outputs:
            return self.chunk.outputs[step.name]
        return self._compute(step, [])  # transient: made again

    def _input(self, source: str) -> Any:
        if source in self.roots:
            return self.roots[source]
        name, _, key = source.partition(".")
        step = next(s for s in self.model.steps if s.name == name)
        value = self._cached(step)
        if not key:
            return value
        return value[int(key)] if key.isdigit() and not isinstance(value, Mapping) else value[key]

    def _compute(self, step: Step, sites: list[Site]) -> Any:
        inputs = [self._input(source) for source in step.inputs]
        if not step.pure:
            inputs = [_copied(value) for value in inputs]
        with ExitStack() as stack:
            if sites:
                fired = stack.enter_context(attached(sites, self._seen, self.model.modules))
                output = step.run(*inputs)
                self.fired.update(fired)
            else:
                output = step.run(*inputs)
        if output is None:
            raise BadModel(f"step {step.name!r} returned nothing; it must return a tensor")
        return output

    def _seen(self, site: Site, value: Tensor) -> Tensor:
        new = self._edited(site, value)
        if site.name in self.read:
            self.kept[site.name] = new.clone()  # a later in-place module must not change it
        return new

    def _edited(self, site: Site, value: Tensor) -> Tensor:
        new = value
        for edit in self.edits.get(site.name, []):
            new = _apply(edit, site, new, self.model.declaration.grid)
        if new is not value:
            self._note(site, value, new)
        return new

    def _note(self, site: Site, old: Tensor, new: Tensor) -> None:
        if old.shape != new.shape:
            raise ShapeMismatch(
                f"site {site.name!r} holds {tuple(old.shape)}, the edit wrote {tuple(new.shape)}"
            )
        moved = float((new.double() - old.double()).abs().max()) if old.numel() else 0.0
        self.changed[site.name] = max(self.changed.get(site.name, 0.0), moved)

    def _require_fired(self) -> None:
        for site in (s for sites in self.sites.values() for s in sites):
            if self.fired[site.name] == 0:
                refuse_compiled(self.model.modules, site)
                raise SiteDidNotFire(
                    f"site {site.name!r} ({type(site.at).__name__} in step {site.at.step!r}) met no "
                    "activation: the branch was skipped, the function is held where it cannot be "
                    "wrapped (a closure or a table), or the module was compiled"
                )
            if inner(site) and self.fired[site.name] > 1:
                raise SiteFiredTwice(
                    f"site {site.name!r} fired {self.fired[site.name]} times in one run; declare the "
                    "occurrence that is meant as a step of its own, or by a tap"
                )


def _apply(edit: Edit, site: Site, value: Tensor, grid: tuple[int, int]) -> Tensor:
    if edit.write is not None:
        before = value._version
        new = edit.write(value)
        if value._version != before:
            raise UsageError(f"the edit of {site.name!r} wrote in place; return a new tensor")
    else:
        new = _some(edit.value).to(value.dtype).to(value.device)
        if new.shape != value.shape:
            try:
                new = new.expand(value.shape)
            except RuntimeError as error:
                raise ShapeMismatch(
                    f"site {site.name!r} holds {tuple(value.shape)}, the value to write has "
                    f"{tuple(new.shape)}"
                ) from error
    if new.shape != value.shape:
        raise ShapeMismatch(
            f"site {site.name!r} holds {tuple(value.shape)}, the edit returned {tuple(new.shape)}"
        )
    if edit.where is not None:
        new = torch.where(spread(edit.where.to(value.device), site, grid), new, value)
    return new


def _some(value: Tensor | None) -> Tensor:
    if value is None:
        raise BadModel("the model has neither tokens nor membership to read")
    return value


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_copied(item) for item in value)
    return list(value) if isinstance(value, list) else value
