"""How often the test for turning directions says so of worlds that do not turn."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from arrcoc_verify.dictionary.planted import config_of
from arrcoc_verify.dictionary.rotation import rotation_test
from arrcoc_verify.dictionary.training import Recipe, Trainer
from arrcoc_verify.dictionary.worlds import Kind, World
from arrcoc_verify.errors import UsageError
from arrcoc_verify.stats.interval import proportion_interval

KINDS: tuple[Kind, ...] = ("prior", "irrelevant")
"""Worlds that do not turn and whose features overlap, which is what looks like turning."""
ALPHA = 0.01
"""Level of the test."""


def false_positives(
    count: int, *, seed: int = 0, steps: int = 1000, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Test worlds that do not turn, each with a seed and a dictionary of its own; JSON data.

    Args:
        count: how many worlds, of the kinds in `KINDS` by turns.
        seed: of the first two; others follow on it.
        steps: of training, of dictionaries and refits.
        tell: called before each world.

    Raises:
        UsageError: fewer than one world.
    """
    if count < 1:
        raise UsageError(f"wanted one world or more that does not turn, got {count}")
    began, worlds = time.perf_counter(), []
    for at in range(count):
        kind, own = KINDS[at % len(KINDS)], seed + at // len(KINDS)
        tell(f"{kind}, seed {own}")
        world, recipe = World.make(kind, seed=own), Recipe(steps=steps, seed=own)
        made = Trainer(config_of(world), recipe, world).train()
        found = rotation_test(made, world, world.judged().samples, recipe, alpha=ALPHA)
        worlds.append({"kind": kind, "seed": own, **asdict(found)})
    return {
        "turns": rate(sum(one["turns"] for one in worlds), count),
        "small_p_values": rate(sum(one["p_value"] < ALPHA for one in worlds), count),
        "alpha": ALPHA, "steps": steps, "seed": seed, "worlds": worlds,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def rate(found: int, count: int) -> dict[str, Any]:
    """Return how many of how many, with the exact 95 % interval of the rate."""
    interval = proportion_interval(found, count)
    return {"found": found, "of": count, "low": interval.low, "high": interval.high}


def calibrated(found: dict[str, Any]) -> bool:
    """Return whether the rate of false positives may be the level or less."""
    return bool(found["turns"]["low"] <= found["alpha"])
