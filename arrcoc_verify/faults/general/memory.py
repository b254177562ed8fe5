"""Faults of state: noise, memories, caches and buffers at any site.

Source: fault catalogues of serving code. What a fault remembers starts empty each time it is made.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from arrcoc_verify.faults.general.operator import STAGE, Operator, named, words
from arrcoc_verify.faults.planting import at
from arrcoc_verify.model import Model

Change = Callable[[Tensor], Tensor]


def dropped() -> Change:
    """One entry in ten is dropped, another draw in every call."""
    generator = torch.Generator().manual_seed(0)

    def change(value: Tensor) -> Tensor:
        keep = torch.rand(value.shape, generator=generator, dtype=torch.float64) > 0.1
        return value * keep.to(value.dtype) / 0.9

    return change


def jittered() -> Change:
    """A hundredth of noise, another draw in every call."""
    generator = torch.Generator().manual_seed(0)

    def change(value: Tensor) -> Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return value * (1 + 0.01 * noise.to(value.dtype))

    return change


def stale() -> Change:
    """What the call before returned, wherever the shape allows."""
    last: dict[tuple[int, ...], Tensor] = {}

    def change(value: Tensor) -> Tensor:
        shape = tuple(value.shape)
        before = last.get(shape, value)
        last[shape] = value.clone()
        return before

    return change


def running_mean() -> Change:
    """Half of it is a running mean over all that went through."""
    seen: dict[tuple[int, ...], Tensor] = {}

    def change(value: Tensor) -> Tensor:
        shape = tuple(value.shape[1:])
        mean = 0.9 * seen.get(shape, value.mean(0)) + 0.1 * value.mean(0)
        seen[shape] = mean
        return 0.5 * value + 0.5 * mean

    return change


def frozen_at_first() -> Change:
    """What the first call of its shape returned, for ever."""
    first: dict[tuple[int, ...], Tensor] = {}

    def change(value: Tensor) -> Tensor:
        return first.setdefault(tuple(value.shape), value.clone())

    return change


def cached_by_size() -> Change:
    """A cache whose key is too coarse: entries of about the same sum are taken for the same."""
    kept: dict[float, Tensor] = {}

    def change(value: Tensor) -> Tensor:
        rows = []
        for row in value:
            key = round(float(row.double().mean()), 1)
            rows.append(kept.setdefault(key, row.clone()))
        return torch.stack(rows)

    return change


def drifting() -> Change:
    """Each call multiplies by a little more."""
    calls = [0]

    def change(value: Tensor) -> Tensor:
        calls[0] += 1
        return value * (1 + 0.01 * calls[0])

    return change


MEMORIES: dict[str, tuple[str, Callable[[], Change]]] = {
    "state-dropped": ("is dropped at random, as in training", dropped),
    "state-jittered": ("is noisy in every call", jittered),
    "state-stale": ("is that of the call before", stale),
    "state-running-mean": ("is blended with a running mean", running_mean),
    "state-frozen": ("stays what the first call made it", frozen_at_first),
    "state-cached-coarsely": ("comes from a cache with too coarse a key", cached_by_size),
    "state-drifting": ("grows with every call", drifting),
}
PLACES = (
    "query", "information", "salience", "query_relevance", "tensions", "weights", "relevance",
    "multiplier", "tokens",
)  # fmt: skip


def _places(number: int) -> tuple[str, ...]:
    """Return three of the places for an operator, so that each place meets several."""
    return tuple(PLACES[(number + step) % len(PLACES)] for step in (0, 3, 6))


def _planted(role: str, make: Callable[[], Change]) -> Callable[[Model], Model]:
    return lambda model: at(model, role, make())


def operators() -> tuple[Operator, ...]:
    """Return every memory at three places each."""
    return tuple(
        Operator(
            name=named(name, role), stage="runtime", also=(STAGE[role],),
            sentence=f"{words(role)} {said}", plant=_planted(role, make),
        )
        for number, (name, (said, make)) in enumerate(MEMORIES.items())
        for role in _places(number)
    )  # fmt: skip
