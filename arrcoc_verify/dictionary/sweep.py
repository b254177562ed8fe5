"""Dictionaries on the sparse planted world, over a sweep of L0 and seeds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch

from arrcoc_verify.dictionary.architecture import Architecture, Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.recovery import mean_correlation, recovery
from arrcoc_verify.dictionary.sparse_world import SparseWorld, absorption, probe_ceiling
from arrcoc_verify.dictionary.training import Recipe, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One architecture at one k, means over seeds; all but `l0` lie in 0..1.

    Attributes:
        architecture, k: what was trained.
        fve: fraction of variance explained.
        l0: active latents of a sample.
        dead: share of latents that never fire.
        rare: share of latents that fire on less than 0.1 % of samples.
        f1, mcc, unique: see `recovery`.
        absorbed: see `absorption`.
        stable: mean over pairs of seeds of the mean absolute cosine of matched directions.
    """

    architecture: str
    k: float
    fve: float
    l0: float
    dead: float
    rare: float
    f1: float
    mcc: float
    unique: float
    absorbed: float
    stable: float


def sweep(  # noqa: PLR0913 - each is named at the call
    *,
    seed: int,
    seeds: int,
    steps: int,
    ks: Sequence[float],
    architectures: Sequence[Architecture],
    world: SparseWorld | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the scores of every architecture at every k as JSON data, beside the probes' ceiling.

    Args:
        seed: of the world; dictionaries take `seeds` seeds from there.
        seeds: dictionaries of each kind, 2 or more for stability.
        steps: of training.
        ks: active latents of a sample.
        architectures: see `ARCHITECTURES`.
        world: another world.
        tell: called before each fit.
    """
    began = time.perf_counter()
    world = world or SparseWorld.make(seed=seed)
    tell("logistic probes")
    ceiling = probe_ceiling(world)
    features, channels = world.directions.shape
    rows = []
    for architecture in architectures:
        for k in ks:
            config = DictionaryConfig(
                architecture=architecture, d_in=channels, latents=features,
                k=int(k) if architecture == "topk" else k,
            )  # fmt: skip
            made = []
            for own in range(seed, seed + seeds):
                tell(f"{architecture}, k {k:g}, seed {own}")
                made.append(Trainer(config, Recipe(steps=steps, seed=own), world).train())
            rows.append(asdict(_scores(world, made)))
    true = float((world.judged()[1] > 0).sum(1).float().mean())
    return {
        "world": {"features": features, "channels": channels, "l0": true, "seed": seed},
        "probe_ceiling_f1": ceiling, "seeds": seeds, "steps": steps, "rows": rows,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


@torch.no_grad()
def _scores(world: SparseWorld, made: Sequence[Dictionary]) -> Scores:
    each = [_one(world, dictionary) for dictionary in made]
    pairs = list(combinations(made, 2))
    stable = [mean_correlation(a.W_dec, b.W_dec)[0] for a, b in pairs]
    config = made[0].config
    return Scores(
        architecture=config.architecture, k=config.k,
        stable=sum(stable) / len(stable) if stable else float("nan"),
        **{key: sum(one[key] for one in each) / len(each) for key in each[0]},
    )  # fmt: skip


def _one(world: SparseWorld, dictionary: Dictionary) -> dict[str, float]:
    x, truth = world.judged()
    codes = dictionary.encode(x)
    fires = codes > 0
    found = recovery(dictionary.W_dec, world.directions, codes, truth)
    _, latents, features = mean_correlation(dictionary.W_dec, world.directions)
    matched = torch.zeros(len(x), len(world.directions), dtype=torch.bool)
    matched[:, features] = fires[:, latents]
    share = fires.double().mean(0)
    left = (x - dictionary.decode(codes)).square().sum()
    return {
        "fve": float(1 - left / (x - x.mean(0)).square().sum()),
        "l0": float(fires.sum(1).double().mean()),
        "dead": float((share == 0).double().mean()),
        "rare": float((share < 1e-3).double().mean()),
        "f1": found.f1, "mcc": found.mcc, "unique": found.unique,
        "absorbed": absorption(world, matched, truth),
    }  # fmt: skip
