"""Reading a model's sites over many scenes into an activation store, and saying what its sites are.

Memory is bounded by one shard and one batch, whatever the number of scenes; a capture that was
killed, interrupted or ran out of disk goes on where it stopped when it is run again.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from arrcoc_verify.activations import ActivationStore, Example, Header, StoredSite, StoreWriter
from arrcoc_verify.errors import (
    BadQuery,
    NonFinite,
    ShapeMismatch,
    SiteDidNotFire,
    SiteFiredTwice,
    StoreError,
    UnknownName,
    UsageError,
)
from arrcoc_verify.graph import Run, require_text, run
from arrcoc_verify.model import Model, all_finite
from arrcoc_verify.provenance import json_digest

SHARD_EXAMPLES = 64
SHARD_BYTES = 256 * 2**20

log = logging.getLogger(__name__)


@runtime_checkable
class SceneLike(Protocol):
    """What a capture needs of a scene."""

    @property
    def image(self) -> Image.Image:
        """RGB picture."""

    @property
    def query(self) -> str:
        """Text."""

    @property
    def unit(self) -> str:
        """Source photograph."""

    @property
    def role(self) -> str:
        """Train, select, donor, assert or repair-confirm."""

    @property
    def name(self) -> str:
        """Tells scenes apart."""


SceneTuple = tuple[Image.Image, str, str, str, str]
"""(image, query, unit, role, name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDescription:
    """A site as a model has it; shape and dtype are one example's, None if it never fired."""

    name: str
    stage: str
    role: str | None
    axes: tuple[str, ...]
    shape: tuple[int, ...] | None
    dtype: str | None
    writable: bool
    fired: bool
    problem: str = ""


def describe_sites(model: Model, image: Image.Image, query: str) -> list[SiteDescription]:
    """Return what every declared site holds for one picture and query, those that fail included."""
    try:
        whole = run(model, [image], [query], read=model.sites)
    except (SiteDidNotFire, SiteFiredTwice, ShapeMismatch):
        return [_described(model, name, image, query) for name in model.sites]
    return [_description(model, name, whole[name]) for name in model.sites]


def _described(model: Model, name: str, image: Image.Image, query: str) -> SiteDescription:
    try:
        return _description(model, name, run(model, [image], [query], read=[name])[name])
    except (SiteDidNotFire, SiteFiredTwice, ShapeMismatch) as error:
        return _description(model, name, None, problem=str(error))


def _description(
    model: Model, name: str, value: Tensor | None, *, problem: str = ""
) -> SiteDescription:
    site = model.site(name)
    return SiteDescription(
        name=name, stage=site.stage, role=site.role, axes=site.axes,
        shape=None if value is None else tuple(value.shape[1:]),
        dtype=None if value is None else _dtype(value),
        writable=site.writable, fired=value is not None, problem=problem,
    )  # fmt: skip


def choose_sites(model: Model, patterns: str | Iterable[str]) -> list[str]:
    """Return the sites that match any pattern, in the model's order.

    Args:
        model: model under test.
        patterns: as of a shell (`knowing.*`); one that begins with `!` takes sites away again.

    Raises:
        UnknownName: a pattern matches no site; the nearest name is suggested.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if patterns and all(pattern.startswith("!") for pattern in patterns):
        patterns = ["*", *patterns]
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in model.sites if fnmatchcase(name, pattern.removeprefix("!"))}
        if not matched:
            raise UnknownName("site", pattern.removeprefix("!"), model.sites)
        chosen = chosen - matched if pattern.startswith("!") else chosen | matched
    if not chosen:
        raise UsageError(f"no site is left to capture after {' '.join(patterns) or 'no pattern'}")
    return [name for name in model.sites if name in chosen]


def capture(  # noqa: PLR0913 - a door: what can be chosen is chosen by name
    model: Model,
    scenes: Sequence[SceneLike | SceneTuple],
    *,
    folder: Path | str,
    sites: str | Iterable[str] = "*",
    seed: int = 0,
    shard_examples: int = SHARD_EXAMPLES,
    shard_bytes: int = SHARD_BYTES,
    batch_size: int | None = None,
    progress: bool = True,
) -> ActivationStore:
    """Read sites of `model` over `scenes` into a store, or finish one that was cut short.

    Memory holds twice one shard (the activations and their bytes) and one batch of the model.
    The store's bytes do not depend on the batch size where the model's do not.

    Args:
        model: model under test.
        scenes: what to run it on; may be lazy, each is looked at once to plan and once to run.
        folder: where the store lies; new, empty, or of the same capture.
        sites: names or shell patterns, see `choose_sites`.
        seed: for models that declare that they are not deterministic.
        shard_examples: examples of a shard at most.
        shard_bytes: bytes of a shard at most, where one example is not larger.
        batch_size: images that go through together; default is what the model declares.
        progress: show a bar on standard error.

    Raises:
        UnknownName: a pattern matches no site.
        NonFinite: a step or site holds NaN or infinity; names it and the example.
        StoreError: the folder holds another capture, or the disk is full.
    """
    if min(shard_examples, shard_bytes, batch_size or 1) < 1:
        raise UsageError("shard_examples, shard_bytes and batch_size must be at least 1")
    if not len(scenes):
        raise UsageError("no scene to capture: name at least one picture with its query")
    names = choose_sites(model, sites)
    plan = tuple(_example(scene) for scene in scenes)
    reader = _Reader(model, names, plan, seed, batch_size)
    probe = reader.run([scenes[0]], 0)
    stored = [_stored(model, name, probe[name]) for name in names]
    each = sum(site.bytes for site in stored)
    header = Header(
        model={"name": model.name, "digest": model.digest, "spec": model.spec,
               "adapter": model.adapter},
        sites=tuple(stored), plan=json_digest([_plain(example) for example in plan]),
        examples=len(plan), shard_examples=max(1, min(shard_examples, shard_bytes // max(each, 1))),
        seed=seed,
    )  # fmt: skip
    with StoreWriter(folder, header) as writer, _shown(header, each, progress) as advance:
        for damage in writer.dropped:
            log.warning("made again: %s", damage)
        _require_same_model(model, writer, probe)
        advance(sum(len(header.rows(number)) for number in writer.shards))
        for number in writer.missing:
            with _told_how_to_go_on(writer):
                values = reader.shard(scenes, header, number, advance)
                examples = plan[header.rows(number).start : header.rows(number).stop]
                writer.write(number, values, examples)
        writer.finish()
    return ActivationStore.open(folder)


class _Reader:
    """Runs scenes through the model in batches and fills one shard's tensors."""

    def __init__(
        self,
        model: Model,
        names: Sequence[str],
        plan: Sequence[Example],
        seed: int,
        batch_size: int | None,
    ) -> None:
        self.model, self.names, self.plan, self.seed = model, names, plan, seed
        declared = model.declaration
        # What draws, or couples its images, goes one by one: rows must not depend on their batch.
        alone = not (declared.deterministic and declared.batch_invariant)
        self.batch = 1 if alone else (batch_size or declared.batch_size)

    def shard(
        self,
        scenes: Sequence[SceneLike | SceneTuple],
        header: Header,
        number: int,
        advance: Callable[[int], None],
    ) -> dict[str, Tensor]:
        """Return site -> activations of a shard's rows."""
        rows = header.rows(number)
        values = {
            site.name: torch.empty((len(rows), *site.shape), dtype=getattr(torch, site.dtype))
            for site in header.sites
        }
        at = rows.start
        while at < rows.stop:
            part = range(at, min(at + self.batch, rows.stop))
            try:
                done = self.run([scenes[row] for row in part], at)
            except (torch.OutOfMemoryError, MemoryError):
                if self.batch == 1:
                    raise
                self.batch = max(1, len(part) // 2)
                log.warning("out of memory: going on with batches of %d", self.batch)
                continue
            for site in header.sites:
                held = done[site.name]
                self._require_shape(site, held, part)
                values[site.name][at - rows.start : part.stop - rows.start].copy_(held)
            at = part.stop
            advance(len(part))
        return values

    def run(self, scenes: Sequence[SceneLike | SceneTuple], first: int) -> Run:
        """Return the run of these scenes, the first of which is row `first`.

        Raises:
            NonFinite: names the step or site, and the example.
        """
        parts = [_parts(scene) for scene in scenes]
        images, queries = [part[0] for part in parts], [part[1] for part in parts]
        try:
            with self._seeded(first):
                done = run(self.model, images, queries, read=self.names, batch_size=len(scenes))
            for name in self.names:
                if not all_finite(done[name]):
                    raise NonFinite(f"site {name!r} of {self.model.name!r} holds NaN or infinity")
        except NonFinite as error:
            if len(scenes) > 1:  # which one was it? alone it fails too, unless its batch did it
                for at, scene in enumerate(scenes):
                    self.run([scene], first + at)
            names = ", ".join(repr(e.name) for e in self.plan[first : first + len(scenes)])
            raise NonFinite(f"{error}, met at example {names}") from error
        return done

    def _require_shape(self, site: StoredSite, value: Tensor, part: range) -> None:
        want, got = (len(part), *site.shape), tuple(value.shape)
        if want != got or site.dtype != _dtype(value):
            raise ShapeMismatch(
                f"site {site.name!r} held {site.dtype} {want[1:]} for the first example, and holds "
                f"{_dtype(value)} {got[1:]} for {len(value)} images at example "
                f"{self.plan[part.start].name!r}; sites whose shape varies cannot be stored: "
                f"leave it out with sites='!{site.name}'"
            )

    @contextmanager
    def _seeded(self, row: int) -> Iterator[None]:
        """Give a model that draws the same numbers for a row whenever it is run."""
        if self.model.declaration.deterministic:
            yield
            return
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self.seed * 0x9E3779B1 + row) % 2**63)
            yield


def _parts(scene: SceneLike | tuple[Any, ...]) -> SceneTuple:
    if isinstance(scene, tuple):
        if len(scene) != 5:
            raise UsageError(
                f"a scene is (image, query, unit, role, name), got a tuple of {len(scene)}"
            )
        return scene
    return scene.image, scene.query, scene.unit, scene.role, scene.name


def _example(scene: SceneLike | tuple[Any, ...]) -> Example:
    image, query, unit, role, name = _parts(scene)
    try:
        require_text([query])
    except BadQuery as error:
        raise BadQuery(f"scene {name!r}: {error}") from error
    pixels = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
    return Example(name=name, unit=unit, role=role, query=query, image=pixels)


def _plain(example: Example) -> list[str]:
    return [example.name, example.unit, example.role, example.query, example.image]


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _stored(model: Model, name: str, value: Tensor) -> StoredSite:
    site = model.site(name)
    return StoredSite(
        name=name, stage=site.stage, role=site.role, axes=site.axes,
        shape=tuple(value.shape[1:]), dtype=_dtype(value),
    )  # fmt: skip


def _require_same_model(model: Model, writer: StoreWriter, probe: Run) -> None:
    """Compare the first row where no digest tells whether this model began the store."""
    if model.digest or 0 not in writer.shards:
        return
    begun = ActivationStore.open(writer.folder, partial=True)
    tolerance = max(model.declaration.tolerance, 1e-12)
    for name in begun.sites:
        there, now = begun.read(name, [0]).double(), probe[name].cpu().double()
        if not torch.allclose(there, now, rtol=tolerance, atol=tolerance):
            raise StoreError(
                f"{writer.folder} was begun by another model: site {name!r} of the first example "
                f"differs by up to {float((there - now).abs().max()):.3g}. Choose another folder"
            )


@contextmanager
def _told_how_to_go_on(writer: StoreWriter) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(
            f"{len(writer.shards)} of {writer.header.shards} shards are finished in "
            f"{writer.folder}; run the same capture again to go on from there"
        )
        raise


@contextmanager
def _shown(header: Header, each: int, progress: bool) -> Iterator[Callable[[int], None]]:
    size = each * header.shard_examples
    shards = f"{header.shards} shard{'s' * (header.shards > 1)}"
    told = (
        f"capturing {len(header.sites)} sites of {header.examples} examples in {shards} of at most "
        f"{header.shard_examples} ({size / 2**20:.1f} MiB); memory: twice that and one batch"
    )
    log.info(told)
    console = Console(stderr=True, quiet=not progress)
    console.print(told, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    bar = Progress(*columns, console=console, disable=not progress)
    shown: Any = bar if progress else nullcontext()
    with shown:
        task = bar.add_task("examples", total=header.examples)
        yield lambda count: bar.advance(task, count)
