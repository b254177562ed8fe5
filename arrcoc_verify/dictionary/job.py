"""From a model to dictionaries on disk: what to look at, capture, train, judge, keep."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from arrcoc_verify.activations import ActivationStore
from arrcoc_verify.capture import SceneTuple, choose_sites
from arrcoc_verify.dictionary.activations import Places, StoreSource, split
from arrcoc_verify.dictionary.architecture import Architecture, Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.checkpoint import require_same
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.rotation import rotation_test
from arrcoc_verify.dictionary.sharding import ShardedTrainer
from arrcoc_verify.dictionary.storage import CONFIG, Kept, load_dictionary, save_dictionary
from arrcoc_verify.dictionary.training import Figures, Recipe, Trainer
from arrcoc_verify.dictionary.workers import Workers
from arrcoc_verify.errors import StoreError, UsageError
from arrcoc_verify.model import Model
from arrcoc_verify.report.atomic import write_text
from arrcoc_verify.scenes import fixtures, queries
from arrcoc_verify.scenes.compose import scenes
from arrcoc_verify.scenes.scene import Scene

ROLES = (
    "information_features", "salience_features", "query_relevance_features",
    "balancing_features", "attending_features",
)  # fmt: skip
"""Sites that get a dictionary when none is named: the vectors that stages hand on."""
CHECKPOINT, STILL, ROTATION = "checkpoint", "still", "rotation.json"
"""In a dictionary's folder while it is trained."""
SIZE = 1024
"""Samples of a batch where nothing is said."""
ARRANGEMENTS = 6
"""Times that the training scenes are composed, objects elsewhere each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One dictionary to train.

    Attributes:
        name: of its folder.
        inputs: sites that are encoded; several make a crosscoder.
        target: site that is decoded, of a transcoder.
        architecture: one of `ARCHITECTURES`.
        latents: number of latents; None for `expansion` times the channels.
        expansion: see there.
        k: active latents of a sample.
        conditional: the query is an offset of the thresholds.
        turns: rank of the query-dependent part of the directions, where a test says that they turn.
        skip: a transcoder with a linear path.
    """

    name: str
    inputs: tuple[str, ...]
    target: str | None = None
    architecture: Architecture = "matryoshka"
    latents: int | None = None
    expansion: int = 8
    k: float = 16.0
    conditional: bool = False
    turns: int = 0
    skip: bool = False

    def width(self, channels: int) -> int:
        """Return the number of latents for so many channels.

        Raises:
            UsageError: there would be fewer than `k`, or none.
        """
        latents = self.expansion * channels if self.latents is None else self.latents
        if latents < 1 or not 0 < self.k <= latents:
            raise UsageError(
                f"{self.name}: wanted at least one latent and k of them at most, got {latents} "
                f"latents and k={self.k:g}: change --k, or --latents or --expansion"
            )
        return latents

    def config(self, first: Samples, channels: Sequence[int]) -> DictionaryConfig:
        """Return the dictionary for samples like these."""
        latents = self.width(first.x.shape[1])
        return DictionaryConfig(
            architecture=self.architecture, d_in=first.x.shape[1], latents=latents,
            k=self.k, skip=self.skip, turns=self.turns,
            d_out=None if first.target is None else first.target.shape[1],
            query=0 if first.query is None else first.query.shape[1],
            blocks=tuple(channels) if len(channels) > 1 else (),
        )  # fmt: skip


def vector_sites(model: Model, patterns: Sequence[str] | None = None) -> list[str]:
    """Return the sites that dictionaries are trained for.

    Args:
        model: model under test.
        patterns: names or shell patterns; None takes the vectors that stages hand on, or all
            vectors a patch where roles do not tell.

    Raises:
        UsageError: a named site does not hold a vector a patch, or the model has none.
    """

    def fits(name: str) -> bool:
        site = model.site(name)
        return site.per_patch and "channel" in site.axes and site.writable

    if patterns:
        chosen = choose_sites(model, patterns)
        if named := [name for name in chosen if not fits(name) and name in patterns]:
            raise UsageError(f"{named[0]!r} does not hold a vector a patch that can be written")
    else:
        found = [site for role in ROLES for site in model.roles(role)]
        chosen = [site.name for site in found] or list(model.sites)
    chosen = [name for name in chosen if fits(name)]
    if not chosen:
        raise UsageError(
            f"{model.name} has no such site with a vector a patch: `arrcoc-verify sites` lists them"
        )
    return chosen


def training_scenes(model: Model, size: int, seed: int = 0) -> list[SceneTuple]:
    """Return pictures with queries of the roles train and select, for models without others.

    Composed scenes with each query that they have, and the photographs as they are.
    """
    made: list[SceneTuple] = []
    grid = model.declaration.grid
    for role in ("train", "select"):
        for turn in range(ARRANGEMENTS if role == "train" else 1):
            found = scenes(role, grid=grid, size=size, per_cluster=3, seed=seed + turn)
            made += asked(found, f"/{turn}")
    for photo in fixtures.manifest().photographs:
        if photo.role in ("train", "select"):
            image = fixtures.photograph(photo.id).resize((size, size))
            query = queries.ask(photo.label)
            made.append((image, query, photo.id, photo.role, f"{photo.role}/{photo.id}"))
    return made


def asked(found: Iterable[Scene], suffix: str = "") -> list[SceneTuple]:
    """Return scenes once for each query that they have."""
    made: list[SceneTuple] = []
    for scene in found:
        kinds = {"": scene.query, "+other": scene.other_query, "+absent": scene.absent_query}
        for kind, query in kinds.items():
            if query:
                name = f"{scene.name}{suffix}{kind}"
                made.append((scene.image, query, scene.unit, scene.role, name))
    return made


def sites_of(model: Model, plans: Sequence[Plan]) -> list[str]:
    """Return the sites that a capture must hold for plans.

    Raises:
        UsageError: a conditional dictionary, and the model has no site with the query.
    """
    wanted = [name for plan in plans for name in (*plan.inputs, plan.target) if name]
    if any(plan.conditional or plan.turns for plan in plans):
        wanted.append(query_site(model))
    return list(dict.fromkeys(wanted))


def query_site(model: Model) -> str:
    """Return the site that holds the query as one vector an image."""
    site = model.role("query")
    if site is None or site.axes != ("image", "channel"):
        raise UsageError(
            f"{model.name} has no site with role 'query' and axes ('image', 'channel'): "
            "declare one, or train unconditional dictionaries"
        )
    return site.name


def source_of(store: ActivationStore, plan: Plan, *, size: int | None, seed: int) -> StoreSource:
    """Return the samples of a plan, scaled for training.

    Args:
        store: made by `capture`.
        plan: what is trained.
        size: samples of a batch; None for `SIZE`, or as many as there are.
        seed: of the order.

    Raises:
        UsageError: a query is wanted and not stored, or a batch is larger than all samples.
    """
    source = _unscaled(store, plan, size, seed)
    source.fit_scale(plan.k)
    return source


def check(store: ActivationStore, plan: Plan, size: int | None) -> None:
    """Refuse a plan that a store's activations do not allow, without reading them all.

    Raises:
        UsageError: as `source_of` and `Plan.width`.
    """
    _unscaled(store, plan, size, 0)
    plan.width(sum(channels(store, name) for name in plan.inputs))


def _unscaled(store: ActivationStore, plan: Plan, size: int | None, seed: int) -> StoreSource:
    query = None
    if plan.conditional or plan.turns:
        query = next((s.name for s in store.sites.values() if s.role == "query"), None)
        if query is None:
            raise UsageError("the store holds no site with role 'query': capture it, too")
    rows, held = split(store)
    places = Places(inputs=plan.inputs, target=plan.target, query=query)
    source = StoreSource(
        store=store, places=places, rows=rows, held_rows=held, size=size or SIZE, seed=seed
    )
    there = len(rows) * source.each
    if size is None:
        source.size = min(SIZE, there)
    elif there < size:
        raise UsageError(
            f"{plan.name}: wanted a batch of {size} samples, and the {len(rows)} examples to train "
            f"on have {there}: use more pictures, or a --batch-size of at most {there}"
        )
    return source


def train_plan(  # noqa: PLR0913 - each is named at the call
    store: ActivationStore,
    plan: Plan,
    recipe: Recipe,
    folder: Path,
    *,
    size: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    sharded: bool = False,
    tell: Callable[[Figures], None] = lambda _: None,
) -> Kept:
    """Train one dictionary on a store, keep it in `folder` and return it.

    Args:
        store: made by `capture`.
        plan: what to train.
        recipe: how.
        folder: of this dictionary; holds checkpoints until it is done.
        size: samples of a batch; None for `SIZE`, or as many as there are.
        device: where it is trained.
        resume: take a finished dictionary as it is, and go on from a checkpoint.
        sharded: processes share out the latents, not the samples.
        tell: called after each step.

    Raises:
        StoreError: the folder holds what a training made, and it is not to be resumed or was made
            by other settings or of other data.
        UsageError: as `source_of` and `Plan.width`.
    """
    if not resume:
        check_unused(folder)
    source = source_of(store, plan, size=size, seed=recipe.seed)
    first = source.batch(0)
    config = plan.config(first, [channels(store, name) for name in plan.inputs])
    about: dict[str, Any] = {
        "site": plan.inputs[0], "sites": list(plan.inputs), "target": plan.target,
        "query_site": source.places.query, "model": dict(store.header.model),
        "recipe": asdict(recipe), "samples": recipe.steps * len(first.x),
        "examples": len(source.rows), "asked": config.plain(), "first_batch": first.digest(),
    }  # fmt: skip
    if resume and (folder / CONFIG).is_file():
        done = load_dictionary(folder)
        require_same(folder, done.about, about)
        return done
    fit = Fit(
        recipe=recipe, source=source, device=device, resume=resume, sharded=sharded, tell=tell
    )
    rotation: Mapping[str, Any] | None = None
    if config.turns:
        dictionary, rotation = turned(config, fit, folder, about)
    else:
        dictionary = fit.made(config, folder / CHECKPOINT)
    measured = held_figures(dictionary, source.held_out())
    dictionary.rescale_(source.scale, None if plan.target is None else source.target_scale)
    about |= {"held_out": measured, **({"rotation": rotation} if rotation else {})}
    kept = Kept(dictionary=dictionary, about=about)
    if Workers.present().first:
        save_dictionary(folder, kept)
        for name in (CHECKPOINT, STILL):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / ROTATION).unlink(missing_ok=True)
    return kept


def check_unused(folder: Path) -> None:
    """Refuse a dictionary's folder that a training has written to, lest its work is lost.

    Raises:
        StoreError: it holds a dictionary, or what a stopped training left.
    """
    names = (CONFIG, CHECKPOINT, STILL, ROTATION)
    if there := [name for name in names if (folder / name).exists()]:
        what = "a dictionary" if CONFIG in there else "an unfinished training"
        raise StoreError(
            f"{folder} already holds {what}: go on with it by --resume {folder.parent}, or choose "
            "another folder"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What all fits of one plan share: see `train_plan`."""

    recipe: Recipe
    source: StoreSource
    device: str
    resume: bool
    sharded: bool
    tell: Callable[[Figures], None]

    def made(self, config: DictionaryConfig, checkpoint: Path) -> Dictionary:
        """Return a trained dictionary; its state is kept on the way."""
        kind = ShardedTrainer if self.sharded else Trainer
        trainer = kind(config, self.recipe, self.source, device=self.device)
        if self.resume and trainer.has_kept(checkpoint):
            trainer.load(checkpoint)
        every = max(100, self.recipe.steps // 10)
        made = trainer.train(self.tell, keep=checkpoint, every=every)
        return trainer.whole() if isinstance(trainer, ShardedTrainer) else made.cpu()


def turned(
    config: DictionaryConfig, fit: Fit, folder: Path, about: Mapping[str, Any]
) -> tuple[Dictionary, Mapping[str, Any]]:
    """Return a dictionary whose directions turn if a test says that they do, and what it found.

    The test looks at held-out photographs. Where it does not reject, the dictionary is the
    conditional one that the test looked at, without turns. What it found is kept for a resumed
    training, with `about`, which says what it was found for.
    """
    still = fit.made(replace(config, turns=0), folder / STILL)
    kept = folder / ROTATION
    if fit.resume and kept.is_file():
        told = json.loads(kept.read_text(encoding="utf-8"))
        require_same(kept, told.get("about", {}), about)
        found = told["found"]
    else:
        judged = fit.source.held_out()
        found = asdict(
            rotation_test(still, fit.source, judged, fit.recipe, device=fit.device, tell=fit.tell)
        )
        if Workers.present().first:
            write_text(kept, json.dumps({"about": about, "found": found}))
    return (fit.made(config, folder / CHECKPOINT) if found["turns"] else still), found


@torch.no_grad()
def held_figures(dictionary: Dictionary, samples: Samples) -> dict[str, float]:
    """Return FVE, L0 and the share of silent latents on samples."""
    codes = dictionary.encode(samples.x, samples.query)
    wanted = samples.wanted
    left = wanted - dictionary.decode(codes, query=samples.query, x=samples.x)
    spread = (wanted - wanted.mean(0)).square().sum()
    return {
        "fve": float(1 - left.square().sum() / spread),
        "l0": float((codes > 0).sum(1).float().mean()),
        "dead": float((~(codes > 0).any(0)).float().mean()),
    }


def channels(store: ActivationStore, name: str) -> int:
    """Return how many channels a stored site has."""
    site = store.sites[name]
    return int(site.shape[site.axes.index("channel") - 1])


def swept(plan: Plan, ks: Sequence[float], widths: Sequence[int]) -> list[Plan]:
    """Return a plan for each different k and width, named by them where there are several."""
    made = []
    ks, widths = list(dict.fromkeys(ks)), list(dict.fromkeys(widths))
    for k in ks or (plan.k,):
        for width in widths or (plan.latents,):
            ending = (f"-k{k:g}" if len(ks) > 1 else "") + (f"-{width}" if len(widths) > 1 else "")
            made.append(replace(plan, name=plan.name + ending, k=k, latents=width))
    return made


def told(figures: Figures) -> str:
    """Return one line of live figures."""
    return f"FVE {figures.fve:.3f} L0 {figures.l0:.1f} dead {figures.dead:.0%}"


def plain(kept: Kept) -> dict[str, Any]:
    """Return what is said of a dictionary as JSON data."""
    return {"config": kept.dictionary.config.plain(), **kept.about}
