"""Faults of spending: what is done to whole tokens, to the curve before them, to the multiplier.

Source: fault catalogues of allocators: clamps, rounding, order, leaks, fairness, determinism.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from arrcoc_verify.faults.general.maps import (
    blurred,
    first_for_all,
    mirrored,
    moved,
    neighbours,
    transposed,
)
from arrcoc_verify.faults.general.operator import STAGE, Operator, named
from arrcoc_verify.faults.planting import at, behind, map_at

Change = Callable[[Tensor], Tensor]


def one_more(tokens: Tensor) -> Tensor:
    """Every patch gets one token more."""
    return tokens + 1


def scaled(share: float) -> Change:
    """Rounded down after a cut by some percent."""
    return lambda tokens: (tokens * share).floor()


def first_is_free(tokens: Tensor) -> Tensor:
    """The first patch gets nothing."""
    out = tokens.clone()
    out[:, 0, 0] = 0
    return out


def rest_to_last(tokens: Tensor) -> Tensor:
    """Counts are rounded down to eights, and the last patch takes what is left."""
    out = (tokens / 8).floor() * 8
    out[:, -1, -1] += (tokens - out).sum((1, 2))
    return out


def in_eights(tokens: Tensor) -> Tensor:
    """Counts are rounded to multiples of eight."""
    return (tokens / 8).round() * 8


def capped(tokens: Tensor) -> Tensor:
    """No patch gets more than two thirds of the most, and the rest is lost."""
    return tokens.clamp(max=float(tokens.amax()) * 2 / 3)


def in_order(tokens: Tensor) -> Tensor:
    """Counts are sorted, most first, whatever patch they belong to."""
    flat = tokens.flatten(1).sort(1, descending=True).values
    return flat.reshape(tokens.shape)


def levelled(tokens: Tensor) -> Tensor:
    """Every patch gets the mean."""
    return tokens.mean((1, 2), keepdim=True).expand_as(tokens).round()


def off_by_place(tokens: Tensor) -> Tensor:
    """Early patches get three more, late ones three less."""
    line = torch.linspace(3, -3, tokens.shape[1] * tokens.shape[2], dtype=tokens.dtype)
    return (tokens + line.reshape(tokens.shape[1:])).round()


def inverted(tokens: Tensor) -> Tensor:
    """The most become the fewest."""
    return tokens.amin((1, 2), keepdim=True) + tokens.amax((1, 2), keepdim=True) - tokens


TOKENS: dict[str, tuple[str, Change]] = {
    "tokens-one-more": ("each patch gets one token too many", one_more),
    "tokens-first-free": ("the first patch gets none", first_is_free),
    "tokens-rest-to-last": ("the last patch takes what rounding leaves", rest_to_last),
    "tokens-in-eights": ("counts come in eights", in_eights),
    "tokens-capped": ("no patch gets more than two thirds of the most", capped),
    "tokens-in-order": ("counts are sorted and handed out in order", in_order),
    "tokens-levelled": ("every patch gets the same", levelled),
    "tokens-off-by-place": ("early patches get some more than late ones", off_by_place),
    "tokens-upside": ("the most become the fewest", inverted),
    "tokens-moved": ("counts go to the next patch", moved(0, 1)),
    "tokens-moved-down": ("counts go to the patch below", moved(1, 0)),
    "tokens-mirrored": ("counts are handed out mirrored", mirrored),
    "tokens-transposed": ("counts are handed out with axes exchanged", transposed),
    "tokens-blurred": ("counts are shared among neighbours", blurred(3)),
    "tokens-first-for-all": ("the first picture's counts for the batch", first_for_all),
    "tokens-of-neighbour": ("each picture gets the counts of the one before", neighbours),
}
SCALES = (0.9, 0.98)
MULTIPLIED: dict[str, tuple[str, Change]] = {
    "multiplier-constant": ("is a constant", lambda m: torch.full_like(m, 1.5)),
    "multiplier-batch-mean": ("is the batch's mean", lambda m: m.mean().expand_as(m).clone()),
    "multiplier-first": ("is the first picture's", lambda m: m[:1].expand_as(m).clone()),
    "multiplier-high": ("is a twentieth too high", lambda m: m * 1.05),
    "multiplier-low": ("is a twentieth too low", lambda m: m * 0.95),
}
BATCHED = ("tokens-first-for-all", "tokens-of-neighbour", "multiplier-batch-mean",
           "multiplier-first")  # fmt: skip


def _of_map(name: str, role: str, said: str, change: Change) -> Operator:
    also = ("runtime",) if name.partition(":")[0] in BATCHED else ()
    return Operator(
        name=name, stage=STAGE[role], sentence=said, also=also,
        plant=lambda model: map_at(model, role, change),
    )  # fmt: skip


def _scaled(dose: float) -> Operator:
    return Operator(
        name=named("tokens-scaled", "tokens", dose), stage="attending", strength=1 - dose,
        sentence="counts are cut by some percent and rounded down",
        plant=lambda model: map_at(model, "tokens", scaled(dose)),
    )  # fmt: skip


def _of_multiplier(name: str) -> list[Operator]:
    said, change = MULTIPLIED[name]
    also = ("runtime",) if name in BATCHED else ()
    return [
        Operator(
            name=named(name, "multiplier"), stage="attending", also=also,
            sentence=f"the multiplier {said}",
            plant=lambda model: at(model, "multiplier", change),
        ),
        Operator(
            name=named(f"{name}-unseen", "multiplier"), stage="attending", also=also,
            sentence=f"the multiplier that is used {said}, the one that is shown is not",
            plant=lambda model: behind(model, "multiplier", change),
        ),
    ]  # fmt: skip


def operators() -> tuple[Operator, ...]:
    """Return every operator on the spending of tokens."""
    found = [_of_map(named(n, "tokens"), "tokens", said, c) for n, (said, c) in TOKENS.items()]
    found += [
        _of_map(named(n, "lod"), "lod", TOKENS[n][0], TOKENS[n][1])
        for n in ("tokens-moved", "tokens-blurred", "tokens-capped", "tokens-upside")
    ]
    found += [_scaled(dose) for dose in SCALES]
    found += [one for name in MULTIPLIED for one in _of_multiplier(name)]
    return tuple(found)
