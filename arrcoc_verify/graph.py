"""Run a model's graph, write into its sites, and recompute only what lies downstream.

`run` computes everything once and keeps the results of the steps; `resume` applies edits to a
finished run and recomputes the edited steps' descendants only, so a sweep over late stages costs
those stages and not the encoder (the flank that general libraries leave open). An edit that met no
activation raises: there is no silent no-op.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from PIL import Image

from arrcoc_verify.attach import refuse_training
from arrcoc_verify.edit import Edit
from arrcoc_verify.errors import BadQuery, UsageError
from arrcoc_verify.model import Model
from arrcoc_verify.walk import Chunk, Run, Walker

__all__ = [
    "Chunk", "Edit", "Run", "again", "ask", "refuse_training", "require_text", "resume", "run",
]  # fmt: skip


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
        raise UsageError(
            f"as many queries as images, at least one; got {len(images)}, {len(queries)}"
        )
    require_text(queries)
    refuse_training(model)
    size = batch_size or (model.declaration.batch_size if model.declaration.batch_invariant else 1)
    chunks = [
        Chunk(rows=slice(start, min(start + size, len(images))), outputs={})
        for start in range(0, len(images), size)
    ]
    base = Run(model=model, images=images, queries=queries, chunks=chunks)
    return _walk(base, tuple(edits), tuple(read), fresh=True)


def require_text(queries: Iterable[object]) -> None:
    """Raise BadQuery unless every query is text that is not blank."""
    for query in queries:
        if not isinstance(query, str) or not query.strip():
            raise BadQuery(f"a query must be text that is not empty, got {query!r}")


def resume(base: Run, *, edits: Iterable[Edit], read: Iterable[str] = ()) -> Run:
    """Return what `base` would have been with `edits`, computing again only what lies downstream.

    What was written in `base` stays written: its edits come first, then the new ones.
    """
    refuse_training(base.model)
    return _walk(base, tuple(edits), tuple(read), fresh=False)


def ask(base: Run, queries: Sequence[str], *, read: Iterable[str] = ()) -> Run:
    """Return what `base` would have been with other queries; what only images reach is kept."""
    if len(queries) != len(base):
        raise UsageError(f"as many queries as examples: wanted {len(base)}, got {len(queries)}")
    require_text(queries)
    refuse_training(base.model)
    asked = replace(base, queries=queries)
    return _walk(asked, (), tuple(read), fresh=False, dirty=frozenset({"queries"}))


def again(base: Run, sources: Iterable[str], *, read: Iterable[str] = ()) -> Run:
    """Return a run in which every step that reads one of `sources` is computed anew.

    Args:
        base: run whose other results stand; results that it lacks are made where they are needed.
        sources: names of roots or steps.
        read: sites inside steps to keep.
    """
    refuse_training(base.model)
    return _walk(base, (), tuple(read), fresh=False, dirty=frozenset(sources))


def _walk(
    base: Run,
    edits: tuple[Edit, ...],
    read: tuple[str, ...],
    *,
    fresh: bool,
    dirty: frozenset[str] = frozenset(),
) -> Run:
    for name in [edit.site for edit in edits] + list(read):
        base.model.site(name)
    for edit in edits:
        edit.require_length(len(base))
    changed: dict[str, float] = {}
    chunks = []
    with torch.no_grad():
        for chunk in base.chunks:
            walker = Walker(base, chunk, edits, read, changed)
            chunks.append(walker.walk(fresh=fresh, dirty=set(dirty)))
    return replace(base, chunks=chunks, edits=(*base.edits, *edits), changed=changed)
