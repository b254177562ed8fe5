"""Faults of maps: any score, mix, relevance or demand that has one number a patch.

Source: fault catalogues of deep learning (wrong axis, shape, activation, normalisation over the
wrong axis, precision, padding, order) applied to a map `[image, row, column]`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from arrcoc_verify.faults.general.operator import STAGE, Operator, named, words
from arrcoc_verify.faults.planting import map_at, map_behind
from arrcoc_verify.model import SCORERS

Change = Callable[[Tensor], Tensor]


def _low(maps: Tensor) -> Tensor:
    return maps.amin((1, 2), keepdim=True)


def _high(maps: Tensor) -> Tensor:
    return maps.amax((1, 2), keepdim=True)


def _mean(maps: Tensor) -> Tensor:
    return maps.mean((1, 2), keepdim=True)


def _spread(maps: Tensor) -> Tensor:
    return maps.std((1, 2), keepdim=True, unbiased=False)


def flipped(maps: Tensor) -> Tensor:
    """Least becomes greatest, picture by picture."""
    return _low(maps) + _high(maps) - maps


def even(maps: Tensor) -> Tensor:
    """The picture's mean in every patch."""
    return _mean(maps).expand_as(maps).clone()


def quantised(levels: int) -> Change:
    """Few levels between the picture's least and greatest."""

    def change(maps: Tensor) -> Tensor:
        size = (_high(maps) - _low(maps)).clamp(min=torch.finfo(maps.dtype).tiny)
        steps = ((maps - _low(maps)) / size * (levels - 1)).round()
        return _low(maps) + steps / (levels - 1) * size

    return change


def capped(share: float) -> Change:
    """Nothing above the quantile `1 - share`."""
    return lambda maps: torch.minimum(maps, maps.flatten(1).quantile(1 - share, 1)[:, None, None])


def floored(maps: Tensor) -> Tensor:
    """Nothing below the mean: what speaks against a patch is lost."""
    return torch.maximum(maps, _mean(maps))


def blurred(size: int) -> Change:
    """Means over `size` x `size` patches."""

    def change(maps: Tensor) -> Tensor:
        edge = size // 2
        padded = functional.pad(maps[:, None], (edge,) * 4, mode="replicate")
        return functional.avg_pool2d(padded, size, stride=1)[:, 0]

    return change


def swollen(maps: Tensor) -> Tensor:
    """The greatest of each patch and its neighbours."""
    return functional.max_pool2d(maps[:, None], 3, stride=1, padding=1)[:, 0]


def moved(rows: int, columns: int) -> Change:
    """The whole map some patches down and across, wrapped around."""
    return lambda maps: maps.roll((rows, columns), (1, 2))


def transposed(maps: Tensor) -> Tensor:
    """Rows read as columns."""
    if maps.shape[1] == maps.shape[2]:
        return maps.mT.contiguous()
    return maps.mT.reshape(maps.shape)


def mirrored(maps: Tensor) -> Tensor:
    """Columns in the other order."""
    return maps.flip(2)


def checkered(maps: Tensor) -> Tensor:
    """Every second patch has the picture's least."""
    rows = torch.arange(maps.shape[1])[:, None] + torch.arange(maps.shape[2])[None]
    return torch.where((rows % 2 == 0)[None], maps, _low(maps))


def half_dead(maps: Tensor) -> Tensor:
    """The right half has the picture's least."""
    dead = torch.arange(maps.shape[2]) >= maps.shape[2] // 2
    return torch.where(dead[None, None], _low(maps), maps)


def framed(maps: Tensor) -> Tensor:
    """The outermost patches have the picture's greatest, as after padding with another colour."""
    out = _high(maps).expand_as(maps).clone()
    out[:, 1:-1, 1:-1] = maps[:, 1:-1, 1:-1]
    return out


def coarse(maps: Tensor) -> Tensor:
    """Blocks of 2 x 2 patches share the value of their first patch."""
    rows = torch.arange(maps.shape[1]) // 2 * 2
    columns = torch.arange(maps.shape[2]) // 2 * 2
    return maps[:, rows][:, :, columns]


def folded(maps: Tensor) -> Tensor:
    """Distance from the picture's mean: high and low count the same."""
    return (maps - _mean(maps)).abs()


def peaks(count: int) -> Change:
    """Only the few greatest patches are kept, the rest gets the picture's least."""

    def change(maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        bar = flat.topk(min(count, flat.shape[1]), 1).values[:, -1]
        return torch.where(maps >= bar[:, None, None], maps, _low(maps))

    return change


def ranked(maps: Tensor) -> Tensor:
    """Ranks in the picture instead of values, ties broken by place."""
    flat = maps.flatten(1)
    ranks = flat.argsort(dim=1, stable=True).argsort(1).to(maps.dtype) / flat.shape[1]
    return ranks.reshape(maps.shape)


def undivided(maps: Tensor) -> Tensor:
    """Standardised without an epsilon and squashed: 0 / 0 where nothing differs."""
    return torch.sigmoid((maps - _mean(maps)) / _spread(maps))


def noisy(dose: float) -> Change:
    """Noise that hangs on the last digits of the value: no two patches get the same."""

    def change(maps: Tensor) -> Tensor:
        noise = torch.frac(torch.sin(maps.double() * 1e6) * 1e4).abs() - 0.5
        return maps + dose * _spread(maps) * 3.46 * noise.to(maps.dtype)  # 1 / sd of the noise

    return change


def stamped(dose: float) -> Change:
    """The same pattern over every picture."""

    def change(maps: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(11)
        pattern = torch.randn(maps.shape[1:], generator=generator, dtype=torch.float64)
        return maps + dose * _spread(maps) * pattern.to(maps.dtype)

    return change


def tilted(dose: float, axis: int) -> Change:
    """A preference for one side of the picture, in spreads of the map from end to end."""

    def change(maps: Tensor) -> Tensor:
        line = torch.linspace(-0.5, 0.5, maps.shape[axis], dtype=maps.dtype)
        return maps + dose * _spread(maps) * (line[None, :, None] if axis == 1 else line)

    return change


def centred(dose: float) -> Change:
    """A preference for the middle of the picture."""

    def change(maps: Tensor) -> Tensor:
        down = torch.linspace(-1, 1, maps.shape[1], dtype=maps.dtype)[:, None]
        across = torch.linspace(-1, 1, maps.shape[2], dtype=maps.dtype)[None]
        return maps + dose * _spread(maps) * torch.exp(-2 * (down**2 + across**2))

    return change


def rounded(dtype: torch.dtype) -> Change:
    """Kept in a shorter number for a moment."""
    return lambda maps: maps.to(dtype).to(maps.dtype)


def batch_stretched(maps: Tensor) -> Tensor:
    """Stretched between the least and the greatest of the whole batch."""
    size = (maps.amax() - maps.amin()).clamp(min=torch.finfo(maps.dtype).tiny)
    return (maps - maps.amin()) / size


def first_for_all(maps: Tensor) -> Tensor:
    """The first picture's map for every picture of the batch."""
    return maps[:1].expand_as(maps).clone()


def neighbours(maps: Tensor) -> Tensor:
    """Each picture gets the map of the one before it in the batch."""
    return maps.roll(1, 0)


SIMPLE: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "map-flipped": ("has its sign flipped", flipped, ()),
    "map-even": ("is its mean everywhere", even, ()),
    "map-floored": ("knows nothing below its mean", floored, ()),
    "map-swollen": ("spreads to all neighbours of a patch", swollen, ()),
    "map-transposed": ("has rows and columns exchanged", transposed, ()),
    "map-mirrored": ("is mirrored", mirrored, ()),
    "map-checkered": ("is lost in every second patch", checkered, ()),
    "map-half-dead": ("is lost in the right half", half_dead, ()),
    "map-framed": ("is greatest at the border, whatever is there", framed, ()),
    "map-coarse": ("is computed for every fourth patch only", coarse, ()),
    "map-folded": ("counts low values as high ones", folded, ()),
    "map-ranked": ("is replaced by its ranks, ties by place", ranked, ()),
    "map-undivided": ("is divided by its spread without an epsilon", undivided, ("runtime",)),
    "map-batch-stretched": ("is stretched over the whole batch", batch_stretched, ("runtime",)),
    "map-first-for-all": ("is the first picture's for the whole batch", first_for_all,
                          ("runtime",)),
    "map-of-neighbour": ("is that of the picture before in the batch", neighbours, ("runtime",)),
}  # fmt: skip
DIALLED: dict[str, tuple[str, Callable[[float], Change], tuple[float, ...]]] = {
    "map-quantised": ("has few levels", lambda d: quantised(int(d)), (2, 4, 8)),
    "map-capped": ("is cut off above", capped, (0.5, 0.3)),
    "map-blurred": ("is averaged over neighbours", lambda d: blurred(int(d)), (3, 5)),
    "map-moved": ("lies some patches off", lambda d: moved(0, int(d)), (1, 3)),
    "map-peaks-only": ("is kept in its few greatest patches", lambda d: peaks(int(d)), (5, 20)),
    "map-noisy": ("has noise in it", noisy, (1.0, 2.0)),
    "map-stamped": ("has a fixed pattern over it", stamped, (1.0,)),
    "map-tilted": ("prefers one side", lambda d: tilted(d, 2), (2.0, 4.0)),
    "map-sloped": ("prefers the lower end", lambda d: tilted(d, 1), (4.0,)),
    "map-centred": ("prefers the middle", centred, (2.0, 4.0)),
}  # fmt: skip

EVERYWHERE = (*SCORERS, "relevance")
SOME = {
    "mix": ("map-flipped", "map-moved", "map-first-for-all", "map-capped"),
    "demand": ("map-flipped", "map-moved", "map-quantised", "map-noisy", "map-first-for-all"),
}
"""Roles at which only some operators are planted."""
UNSEEN = {
    "map-flipped": flipped, "map-even": even, "map-moved": moved(0, 1),
    "map-first-for-all": first_for_all, "map-quantised": quantised(2),
}  # fmt: skip
"""Planted behind a site too: the map that is shown is not the one that is used."""


def _simple(role: str, name: str) -> Operator:
    said, change, also = SIMPLE[name]
    return Operator(
        name=named(name, role), stage=STAGE[role], sentence=f"{words(role)} {said}", also=also,
        plant=lambda model: map_at(model, role, change),
    )  # fmt: skip


def _dialled(role: str, name: str, dose: float) -> Operator:
    said, change, _ = DIALLED[name]
    return Operator(
        name=named(name, role, dose), stage=STAGE[role], sentence=f"{words(role)} {said}",
        strength=dose, plant=lambda model: map_at(model, role, change(dose)),
    )  # fmt: skip


def _unseen(role: str, name: str) -> Operator:
    change = UNSEEN[name]
    runtime = ("runtime",) if name == "map-first-for-all" else ()
    return Operator(
        name=named(f"{name}-unseen", role), stage=STAGE[role] if role == "tokens" else "balancing",
        also=(STAGE[role], *(("attending",) if role == "relevance" else ()), *runtime),
        sentence=f"what is used as {words(role)} is another map than is shown",
        plant=lambda model: map_behind(model, role, change),
    )  # fmt: skip


def _instead_of(role: str, other: str) -> Operator:
    return Operator(
        name=named("map-instead", f"{other}-for-{role}"), stage=STAGE[role],
        sentence=f"{words(other)} stands where {words(role)} belongs",
        plant=lambda model: map_at(model, role, lambda _, stranger: stranger, other),
    )  # fmt: skip


def _leaking(role: str, other: str, dose: float) -> Operator:
    def leak(maps: Tensor, stranger: Tensor) -> Tensor:
        size = _spread(stranger).clamp(min=torch.finfo(maps.dtype).tiny)
        return maps + dose * _spread(maps) * (stranger - _mean(stranger)) / size

    return Operator(
        name=named("map-leak", f"{other}-into-{role}", dose), stage=STAGE[role], strength=dose,
        sentence=f"{words(other)} leaks into {words(role)}",
        plant=lambda model: map_at(model, role, leak, other),
    )  # fmt: skip


def operators() -> tuple[Operator, ...]:
    """Return every map operator at every role."""
    pairs = [(a, b) for a in SCORERS for b in SCORERS if a != b]
    found = [_simple(role, name) for name in SIMPLE for role in EVERYWHERE]
    found += [
        _dialled(role, name, dose)
        for name, (_, _, doses) in DIALLED.items()
        for role in EVERYWHERE
        for dose in doses
    ]
    for role, names in SOME.items():
        found += [_simple(role, name) for name in names if name in SIMPLE]
        found += [_dialled(role, n, DIALLED[n][2][0]) for n in names if n in DIALLED]
    found += [_unseen(role, name) for name in UNSEEN for role in EVERYWHERE]
    found += [_instead_of(a, b) for a, b in pairs]
    found += [_leaking(a, b, 1.0) for a, b in pairs]
    return tuple(found)
