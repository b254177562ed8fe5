"""Sound variants of the analytic model: nothing may raise an alarm on them.

They differ in what must not matter: seeds, arithmetic, batch size, and the order of the channels of
the vectors between stages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arrcoc_verify.faults.attending import kept
from arrcoc_verify.faults.fault import after, instead, rewired
from arrcoc_verify.model import Model, Step
from arrcoc_verify.reference import analytic

READERS = {
    "information_features": "information",
    "salience_features": "salience",
    "query_features": "query_relevance",
    "balancing_features": "mix",
    "attending_features": "demand",
}
"""Step that makes a vector a patch -> step that reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """A sound model and the seed it is tried with.

    Attributes:
        name: unique.
        sentence: what differs.
        make: returns the model.
        seed: of scenes, labs and statistics.
    """

    name: str
    sentence: str
    make: Callable[[], Model] = analytic.model
    seed: int = 0


def _single(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _single(item) for key, item in value.items()}
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def single_precision() -> Model:
    """Return the model with float32 between its steps."""

    def rounded(step: Step) -> Step:
        if step.name in ("pixels", "texture"):  # are float32 anyway
            return step
        early = step.inputs == ("texture",)

        def run(*inputs: Any) -> Any:
            return _single(step.run(*(inputs if early else [_double(value) for value in inputs])))

        return replace(step, run=run)

    sound = analytic.model()
    return replace(sound, steps=tuple(rounded(step) for step in sound.steps))


def permuted() -> Model:
    """Return the model with the channels of every feature vector in another order."""
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(48, generator=generator)
    back = order.argsort()
    steps = []
    sound = {step.name: step for step in analytic.model().steps}
    for maker, reader in READERS.items():
        steps += [
            after(maker, lambda value: value[..., order].contiguous()),
            instead(reader, _turned(sound[reader].run, back)),
        ]
    return rewired(*steps)


def _turned(run: Callable[..., Tensor], back: Tensor) -> Callable[..., Tensor]:
    return lambda features: run(features[..., back].contiguous())


def _batches(size: int) -> Callable[[], Model]:
    def make() -> Model:
        sound = analytic.model()
        return replace(sound, declaration=replace(sound.declaration, batch_size=size))

    return make


SOUND = Healthy(name="sound", sentence="the model as it is")
KEPT = Healthy(name="kept", sentence="a quarter of the patches is kept", make=kept)

VARIANTS = (
    SOUND,
    KEPT,
    *(Healthy(name=f"seed:{n}", sentence="other scenes and draws", seed=n) for n in range(1, 6)),
    Healthy(name="single-precision", sentence="float32 between steps", make=single_precision),
    Healthy(name="batch-of:1", sentence="pictures go through one by one", make=_batches(1)),
    Healthy(name="batch-of:5", sentence="pictures go through by fives", make=_batches(5)),
    Healthy(name="channels-permuted", sentence="vectors in another order", make=permuted),
)
"""Everything that must stay silent."""
