"""Faults of running: noise, memory, values that are not finite, activations written in place.

Source: fault catalogues of serving code (training mode left on, buffers used again, missing
epsilon, in-place operators).
"""

import torch
from torch import Tensor

from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.model import Model


def _noisy() -> Model:
    """Dropout that was left on: another draw in every call."""
    generator = torch.Generator().manual_seed(0)

    def drop(score: Tensor) -> Tensor:
        keep = torch.rand(score.shape, generator=generator, dtype=score.dtype) > 0.1
        return score * keep / 0.9

    return rewired(after("query_relevance", drop))


def _random_remainder() -> Model:
    """The tokens left over by rounding go to patches drawn at random."""
    generator = torch.Generator().manual_seed(0)

    def tokens(lod: Tensor) -> Tensor:
        order = torch.rand(lod.shape, generator=generator, dtype=lod.dtype).argsort(1)
        floor = lod.floor()
        left = (lod.sum(1).round() - floor.sum(1)).long()
        return floor + (order.argsort(1) < left[:, None])

    return rewired(instead("tokens", tokens))


def _previous_buffer() -> Model:
    """Relevance is blended with what the same buffer held before."""
    last: dict[tuple[int, ...], Tensor] = {}

    def blend(related: Tensor) -> Tensor:
        shape = tuple(related.shape)
        mixed = 0.7 * related + 0.3 * last.get(shape, related)
        last[shape] = related.clone()
        return mixed

    return rewired(after("relevance", blend))


def _divided(score: Tensor) -> Tensor:
    """Standardise without an epsilon, then squash: 0 / 0 where nothing differs."""
    return torch.sigmoid((score - score.mean(1, keepdim=True)) / score.std(1, keepdim=True))


def _in_place(mixed: Tensor, level: Tensor) -> Tensor:
    return mixed.div_(mixed + level[:, None])


FAULTS = (
    Fault(
        name="dropout-left-on", stage="runtime", also=("knowing",),
        sentence="one patch in ten is dropped, at random",
        make=_noisy,
    ),
    Fault(
        name="remainder-at-random", stage="runtime", also=("attending",),
        sentence="tokens that rounding leaves over are dealt at random", make=_random_remainder,
    ),
    Fault(
        name="buffer-used-again", stage="runtime", also=("balancing",),
        sentence="what the previous batch left in a buffer is blended in", make=_previous_buffer,
    ),
    Fault(
        name="epsilon-missing", stage="runtime", also=("knowing",),
        sentence="salience is divided by its spread, which is 0 on a blank picture",
        make=lambda: rewired(after("salience", _divided)),
    ),
    Fault(
        name="written-in-place", stage="runtime", also=("balancing",),
        sentence="relevance is computed in the memory of the mix, which is lost",
        make=lambda: rewired(instead("relevance", _in_place)),
    ),
)  # fmt: skip
