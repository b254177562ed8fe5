"""Faults of weights and tensions, of what is reported of them, and of query embeddings.

Source: fault catalogues of gating networks (exchanged wires, dead or saturated gates, collapse,
wrong axis) and of self-reports that lie.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from arrcoc_verify.faults.general.operator import STAGE, Operator, named, words
from arrcoc_verify.faults.planting import vector_at, vector_behind

Change = Callable[[Tensor], Tensor]


def exchanged(one: int, two: int) -> Change:
    """Two channels in each other's place."""

    def change(value: Tensor) -> Tensor:
        order = list(range(value.shape[-1]))
        order[one], order[two] = order[two], order[one]
        return value[..., order]

    return change


def without(channel: int) -> Change:
    """One channel is 0."""

    def change(value: Tensor) -> Tensor:
        out = value.clone()
        out[..., channel] = 0
        return out

    return change


def doubled(channel: int) -> Change:
    """One channel counts twice."""

    def change(value: Tensor) -> Tensor:
        out = value.clone()
        out[..., channel] = 2 * out[..., channel]
        return out

    return change


def levelled(share: float) -> Change:
    """Pulled towards its own mean over channels."""
    return lambda value: (1 - share) * value + share * value.mean(-1, keepdim=True)


def winner(value: Tensor) -> Tensor:
    """The greatest channel is 1, the others 0."""
    return (value == value.amax(-1, keepdim=True)).to(value.dtype)


def constant(value: Tensor) -> Tensor:
    """The same everywhere and always."""
    return torch.full_like(value, 1 / value.shape[-1])


def complement(value: Tensor) -> Tensor:
    """One minus it."""
    return 1 - value


def in_tenths(value: Tensor) -> Tensor:
    """Rounded to one decimal."""
    return (value * 10).round() / 10


def in_halves(value: Tensor) -> Tensor:
    """Rounded to 0, one half or 1."""
    return (value * 2).round() / 2


def first_for_all(value: Tensor) -> Tensor:
    """The first picture's for the whole batch."""
    return value[:1].expand_as(value).clone()


def batch_mean(value: Tensor) -> Tensor:
    """The mean over the batch for every picture."""
    return value.mean(0, keepdim=True).expand_as(value).clone()


def rolled(value: Tensor) -> Tensor:
    """Every channel in the place of the next."""
    return value.roll(1, -1)


def negated(value: Tensor) -> Tensor:
    """The opposite sign."""
    return -value


def half_dead(value: Tensor) -> Tensor:
    """Every second channel is 0."""
    return value * (torch.arange(value.shape[-1]) % 2 == 0)


def rectified(value: Tensor) -> Tensor:
    """What lies below the mean over channels is cut."""
    return (value - value.mean(-1, keepdim=True)).clamp(min=0)


def batch_centred(value: Tensor) -> Tensor:
    """The mean over the batch taken away."""
    return value - value.mean(0, keepdim=True)


CHANGES: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "vector-rolled": ("is wired to the next channel", rolled, ()),
    "vector-constant": ("never changes", constant, ()),
    "vector-winner": ("is 1 for the greatest and 0 for the others", winner, ()),
    "vector-levelled": ("hardly differs between channels", levelled(0.95), ()),
    "vector-complement": ("is one minus itself", complement, ()),
    "vector-in-halves": ("is rounded to halves", in_halves, ()),
    "vector-first-for-all": ("is the first picture's for the batch", first_for_all, ("runtime",)),
    "vector-batch-mean": ("is the mean over the batch", batch_mean, ("runtime",)),
}
BY_CHANNEL: dict[str, tuple[str, Callable[[int], Change]]] = {
    "vector-exchanged": ("has two channels exchanged", lambda c: exchanged(c, (c + 1) % 3)),
    "vector-without": ("has a dead channel", without),
    "vector-doubled": ("counts one channel twice", doubled),
}
REPORTED: dict[str, Change] = {
    "report-rolled": rolled, "report-winner": winner, "report-levelled": levelled(0.5),
    "report-in-tenths": in_tenths, "report-first-for-all": first_for_all,
    "report-exchanged": exchanged(0, 2), "report-batch-mean": batch_mean,
    "report-complement": complement,
}  # fmt: skip
EMBEDDED: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "embedding-negated": ("has the opposite sign", negated, ("knowing",)),
    "embedding-rolled": ("is shifted by one channel", rolled, ("knowing",)),
    "embedding-half-dead": ("has every second channel dead", half_dead, ()),
    "embedding-rectified": ("is cut below its mean", rectified, ()),
    "embedding-batch-centred": ("has the batch's mean taken away", batch_centred, ("runtime",)),
    "embedding-first-for-all": ("is the first of the batch", first_for_all, ("runtime",)),
    "embedding-batch-mean": ("is the mean over the batch", batch_mean, ("runtime",)),
    "embedding-constant": ("is the same for every query", constant, ()),
}


def _at(name: str, role: str, said: str, change: Change, also: tuple[str, ...] = ()) -> Operator:
    return Operator(
        name=name, stage=STAGE[role], sentence=f"{words(role)} {said}", also=also,
        plant=lambda model: vector_at(model, role, change),
    )  # fmt: skip


def _behind(name: str, role: str, said: str, change: Change, also: tuple[str, ...]) -> Operator:
    return Operator(
        name=f"{name.replace(':', '-unseen:', 1)}", stage=STAGE[role], also=(*also, "report"),
        sentence=f"what is used as {words(role)} {said}; what is shown is not",
        plant=lambda model: vector_behind(model, role, change),
    )  # fmt: skip


def operators() -> tuple[Operator, ...]:
    """Return every vector operator at its roles."""
    found = []
    for role in ("weights", "tensions"):
        for name, (said, change, also) in CHANGES.items():
            found.append(_at(named(name, role), role, said, change, also))
        for name, (said, make) in BY_CHANNEL.items():
            found += [
                _at(named(name, f"{role}-{channel}"), role, said, make(channel))
                for channel in range(3)
            ]
        for name in ("vector-rolled", "vector-constant", "vector-winner", "vector-first-for-all"):
            said, change, also = CHANGES[name]
            found.append(_behind(named(name, role), role, said, change, also))
        reported = f"reported_{role}"
        for name, change in REPORTED.items():
            found.append(_at(named(name, role), reported, "are not those that act", change))
    for name, (said, change, also) in EMBEDDED.items():
        found.append(_at(named(name, "query"), "query", said, change, also))
    return tuple(found)
