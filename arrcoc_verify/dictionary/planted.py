"""The planted worlds where conditioning must win and must not, judged with all controls."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from arrcoc_verify.dictionary.architecture import Architecture, Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.conditioning import ARMS, Case, compared, smuggling, trained
from arrcoc_verify.dictionary.rotation import RotationTest, rotation_test
from arrcoc_verify.dictionary.training import Recipe
from arrcoc_verify.dictionary.worlds import TURNS, Kind, World

EXPECTED: dict[Kind, bool] = {"prior": True, "irrelevant": False, "gain": False, "turning": False}
"""World -> whether the offset of the thresholds must be said to help."""
IN_WORDS: tuple[Kind, ...] = ("prior", "irrelevant")
"""Worlds that are asked with text embeddings, too."""
PAIR: tuple[Kind, ...] = ("prior", "irrelevant")
"""Worlds where conditioning must win and must not win, for any architecture."""
L0 = 1.76
PUSH = 8.0
"""What a smuggler multiplies the query's offsets by."""

Tell = Callable[[str], None]


def case_of(world: World) -> Case:
    """Return a world with its truth as a case."""
    truth = world.judged()
    return Case(
        source=world, judged=truth.samples, asked=truth.asked,
        units=torch.arange(len(truth.asked)) // 64,
        directions=world.directions, codes=truth.codes, ceiling=world.bits,
    )  # fmt: skip


def config_of(world: World, architecture: Architecture = "batchtopk") -> DictionaryConfig:
    """Return a conditional dictionary of the world's own size and sparsity."""
    features, channels = world.directions.shape
    return DictionaryConfig(
        architecture=architecture, d_in=channels, latents=features,
        k=2.0 if architecture == "topk" else L0, query=world.phrases.shape[-1],
    )  # fmt: skip


def judge_world(  # noqa: PLR0913 - each is named at the call
    world: World,
    *,
    steps: int,
    seeds: Sequence[int],
    must_help: bool,
    architecture: Architecture = "batchtopk",
    tell: Tell = lambda _: None,
    folder: Path | None = None,
) -> tuple[dict[str, Any], dict[str, list[Dictionary]]]:
    """Return what conditioning does in a world as JSON data, and the dictionaries it rests on."""
    case = case_of(world)
    config = config_of(world, architecture)
    arms = trained(case, config, Recipe(steps=steps), seeds, tell, folder)
    found = compared(case, arms)
    data = found.plain() | {"must_help": must_help, "right": found.helps == must_help}
    return data, arms


def judge_rotation(
    world: World, conditional: Dictionary, *, steps: int, seed: int, must_turn: bool
) -> dict[str, Any]:
    """Return the test for turning directions as JSON data."""
    found: RotationTest = rotation_test(
        conditional, world, world.judged().samples, Recipe(steps=steps, seed=seed)
    )
    return asdict(found) | {"must_turn": must_turn, "right": found.turns == must_turn}


def judge_turning(
    world: World,
    *,
    steps: int,
    seeds: Sequence[int],
    tell: Tell = lambda _: None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return what a dictionary whose directions turn does in a world as JSON data."""
    features, channels = world.directions.shape
    config = DictionaryConfig(
        d_in=channels, latents=features, k=L0, query=world.phrases.shape[-1], turns=TURNS
    )
    case = case_of(world)
    found = compared(case, trained(case, config, Recipe(steps=steps), seeds, tell, folder))
    return found.plain() | {"must_help": True, "right": found.helps}


class Leaking(Dictionary):
    """A dictionary that draws what a query usually looks like: what the tests must catch."""

    usual: Tensor

    @classmethod
    def of(cls, dictionary: Dictionary, world: World) -> "Leaking":
        """Add the least-squares picture of the query to what is decoded."""
        made = cls(dictionary.config)
        made.load_state_dict(dictionary.state_dict())
        held = world.held_out()
        query = held.query if held.query is not None else torch.zeros(len(held.x), 1)
        left = held.x - held.x.mean(0)
        made.usual = torch.linalg.lstsq(query, left).solution
        return made

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Return the reconstruction with the query's usual picture in it."""
        drawn = super().forward(x, query)
        return drawn if query is None else drawn + query @ self.usual


def smugglers(
    world: World, conditional: Dictionary, unconditional: Dictionary
) -> dict[str, dict[str, Any]]:
    """Return the smuggling test of dictionaries that are made to fail it, by what they do."""
    pushing = Dictionary(conditional.config)
    pushing.load_state_dict(conditional.state_dict())
    case, found = case_of(world), {}
    with torch.no_grad():
        if pushing.config.architecture == "gated":
            _open(pushing, world)
        pushing.W_query.mul_(PUSH)
        for name, bad in (
            ("fires on the query", pushing),
            ("draws the query", Leaking.of(conditional, world)),
        ):
            test = smuggling(case, [bad], [unconditional])
            found[name] = asdict(test) | {"caught": not test.passed}
    return found


def _open(gated: Dictionary, world: World) -> None:
    """Leave firing to the gates, about the offset that queries have on average.

    Magnitudes know no query, so that a gate that it opens would fire nothing without an image.
    """
    query = world.held_out().query
    if query is not None:
        gated.b_enc.sub_((PUSH - 1) * query.mean(0) @ gated.W_query)
    gated.b_mag.fill_(1.0)


def report(
    *,
    seed: int = 0,
    seeds: int = 3,
    steps: int = 1000,
    phrases: Tensor | None = None,
    tell: Tell = lambda _: None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return all worlds' comparisons as JSON data, with what each had to show.

    Args:
        seed: of the worlds; dictionaries take `seeds` seeds from there.
        seeds: dictionaries of each kind.
        steps: of training.
        phrases: text embeddings `[query, phrase, channel]`, to ask in words as well; None: one-hot.
        tell: called before each fit.
        folder: where dictionaries are kept, and taken from when they are of the same training.
    """
    began, each = time.perf_counter(), range(seed, seed + seeds)
    worlds: dict[str, Any] = {}
    rotation: dict[str, Any] = {}
    caught: dict[str, Any] = {}
    planned: list[tuple[str, Kind, Tensor | None]] = [(kind, kind, None) for kind in EXPECTED]
    if phrases is not None:
        planned += [(f"{kind}, asked in words", kind, phrases) for kind in IN_WORDS]
    for name, kind, words in planned:
        world = World.make(kind, seed=seed, phrases=words)
        said = _prefixed(tell, name)
        worlds[name], arms = judge_world(
            world, steps=steps, seeds=each, must_help=EXPECTED[kind], tell=said,
            folder=_inside(folder, name),
        )  # fmt: skip
        if words is None or kind == "prior":
            said("do directions turn?")
            rotation[name] = judge_rotation(
                world, arms["conditional"][0], steps=steps, seed=seed, must_turn=kind == "turning"
            )
        if kind == "prior":
            caught[name] = smugglers(world, arms["conditional"][0], arms["unconditional"][0])
        if kind == "turning":
            rotation["turning dictionary"] = judge_turning(
                world, steps=2 * steps, seeds=each, tell=said,
                folder=_inside(folder, "turning dictionary"),
            )  # fmt: skip
    return _summed(worlds, rotation, caught) | {
        "seed": seed, "seeds": seeds, "steps": steps, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def by_architecture(
    architectures: Sequence[Architecture],
    *,
    seed: int = 0,
    seeds: int = 3,
    steps: int = 1000,
    tell: Tell = lambda _: None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return what conditioning does for each architecture where it must win and where it must not.

    Args:
        architectures: see `ARCHITECTURES`; each is compared with twins of its own kind.
        seed: as of `report`, whose form the result has; whether directions turn is not asked.
        seeds: as of `report`.
        steps: as of `report`.
        tell: as of `report`.
        folder: as of `report`.
    """
    began, each = time.perf_counter(), range(seed, seed + seeds)
    worlds: dict[str, Any] = {}
    caught: dict[str, Any] = {}
    for architecture in architectures:
        for kind in PAIR:
            world, name = World.make(kind, seed=seed), f"{architecture}, {kind}"
            worlds[name], arms = judge_world(
                world, steps=steps, seeds=each, must_help=EXPECTED[kind],
                tell=_prefixed(tell, name), architecture=architecture, folder=_inside(folder, name),
            )  # fmt: skip
            if kind == "prior":
                caught[name] = smugglers(world, arms["conditional"][0], arms["unconditional"][0])
    all_caught = _all_caught(caught)
    return {
        "right": all(one["right"] for one in worlds.values()) and all_caught,
        "architectures": list(architectures), "worlds": worlds, "rotation": {},
        "smuggling": {"smugglers": caught, "passed": all_caught},
        "seed": seed, "seeds": seeds, "steps": steps, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _all_caught(caught: Mapping[str, Any]) -> bool:
    return all(bad["caught"] for one in caught.values() for bad in one.values())


def _inside(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name.replace(", ", "-").replace(" ", "-")


def _prefixed(tell: Tell, name: str) -> Tell:
    return lambda text: tell(f"{name}: {text}")


def _summed(
    worlds: Mapping[str, Any], rotation: Mapping[str, Any], caught: Mapping[str, Any]
) -> dict[str, Any]:
    still = [one["turns"] for one in rotation.values() if one.get("must_turn") is False]
    all_caught = _all_caught(caught)
    honest = worlds["prior"]["smuggling"]
    return {
        "right": all(one["right"] for one in (*worlds.values(), *rotation.values())) and all_caught,
        "must_win": worlds["prior"],
        "must_not_win": worlds["irrelevant"],
        "worlds": dict(worlds),
        "rotation": {
            **rotation, "false_positives": sum(still), "still_worlds": len(still),
        },
        "smuggling": {
            "honest": honest, "smugglers": dict(caught),
            "passed": honest["passed"] and all_caught,
        },
    }  # fmt: skip


def read_phrases(path: Path) -> Tensor:
    """Return text embeddings `[query, phrase, channel]` from a safetensors file."""
    return load_file(path)["phrases"].float()


def fits(seeds: int, architectures: int = 0) -> int:
    """Return how often `report`, with text embeddings, or `by_architecture` tells what it does."""
    if architectures:
        return architectures * len(PAIR) * len(ARMS) * seeds
    worlds = len(EXPECTED) + len(IN_WORDS)
    return (worlds + 1) * len(ARMS) * seeds + len(EXPECTED) + 1


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return every comparison of a report by name, the turning dictionary's with them."""
    turning = found["rotation"].get("turning dictionary")
    more = {} if turning is None else {"turning, directions turn": turning}
    return {**found["worlds"], **more}


def conclusions(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (world, what is said, right or wrong) of a report."""
    rows = [
        (name, "conditioning helps" if one["helps"] else f"does not help: {one['reasons'][0]}",
         _right(one["right"]))
        for name, one in judged(found).items()
    ]  # fmt: skip
    for name, one in found["rotation"].items():
        if isinstance(one, dict) and "turns" in one:
            said = "directions turn" if one["turns"] else "no direction turns"
            detail = f"{said}: {one['ratio']:.2f} times a still world, p {one['p_value']:.2g}"
            rows.append((name, detail, _right(one["right"])))
    for name, bad in found["smuggling"]["smugglers"].items():
        for what, one in bad.items():
            caught = "caught" if one["caught"] else "not caught"
            rows.append((name, f"a dictionary that {what} is {caught}", _right(one["caught"])))
    return rows


def _right(right: bool) -> str:
    return "right" if right else "WRONG"
