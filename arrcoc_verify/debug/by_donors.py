"""Parts put right as they work for donors: queried regions elsewhere that got what they should."""

import numpy as np
import torch
from numpy.typing import NDArray

from arrcoc_verify.debug import reference as ref
from arrcoc_verify.debug.parts import SAID, Part, View, Where, Workshop, scorers
from arrcoc_verify.debug.pictures import ESTIMATOR
from arrcoc_verify.graph import Edit, Run

Floats = NDArray[np.float64]


def parts(shop: Workshop) -> list[Part]:
    """Return every part that this model has, in the order in which data flows."""
    if not shop.lists:
        return []
    made: list[Part] = []
    roles = scorers(shop.bench.model)
    for role in roles:
        found = _asked(shop) if role == "query_relevance" else _measured(shop, role)
        made += [found] if found is not None else []
    if len(made) > 1:
        made.append(_together(tuple(made)))
    made += [p for p in (_vector(shop, "tensions"), _vector(shop, "weights")) if p is not None]
    made += [p for p in (_mix(shop, roles), _curve(shop), _multiplier(shop)) if p is not None]
    allocator = _allocator(shop)
    return [*made, *([allocator] if allocator is not None else [])]


def _measured(shop: Workshop, role: str) -> Part | None:
    """A scorer that should follow what estimators say of the picture."""
    donors = shop.bench.donors
    values = shop.read(donors.run, role)
    if values is None or role not in ESTIMATOR:
        return None
    seen = shop.seen(donors.run)
    fits = [_fit(seen[i], values[i]) for i in shop.lists]

    def edits(view: View, where: Where) -> list[Edit]:
        pictures = shop.seen(view.run)
        wanted = np.stack([fits[d](one) for d, one in zip(view.draws, pictures, strict=True)])
        return shop.write_map(view, role, wanted, where)

    said = f"{SAID[role]} as it answers such content elsewhere"
    return Part(name=f"scorer:{role}", code="scorer_blind", role=role, said=said, edits=edits)


def _fit(seen: Floats, values: Floats) -> ref.Ridge:
    return ref.Ridge.fit(seen.reshape(-1, seen.shape[-1]), values.ravel())


def _asked(shop: Workshop) -> Part | None:
    """Query relevance: the region as donors' objects have it, the rest as around donors."""
    donors, role = shop.bench.donors, "query_relevance"
    values = shop.read(donors.run, role)
    if values is None:
        return None
    inside = donors.cells.numpy()
    target = [values[i][inside[i]] for i in shop.lists]
    around = [values[i][~inside[i]] for i in shop.lists]
    asked = shop.goal.sign > 0

    def edits(view: View, where: Where) -> list[Edit]:
        actual = shop.read(view.run, role)
        if actual is None:
            return []
        wanted = actual.copy()
        for row, (mask, draw) in enumerate(zip(view.cells.numpy(), view.draws, strict=True)):
            wanted[row, mask] = ref.matched(actual[row, mask], (target if asked else around)[draw])
            if asked and not mask.all():
                wanted[row, ~mask] = ref.matched(actual[row, ~mask], around[draw])
        return shop.write_map(view, role, wanted, where)

    said = "query relevance as asked-for objects have it elsewhere"
    return Part(name=f"scorer:{role}", code="scorer_blind", role=role, said=said, edits=edits)


def _together(found: tuple[Part, ...]) -> Part:
    def edits(view: View, where: Where) -> list[Edit]:
        return [edit for part in found for edit in part.edits(view, where)]

    return Part(
        name="scorers", code="scorer_blind", role="", said="all scores as they are elsewhere",
        edits=edits,
    )  # fmt: skip


def _vector(shop: Workshop, role: str) -> Part | None:
    bench = shop.bench
    values = bench.vector(bench.donors.run, role)
    if values is None or bench.writable(role) is None:
        return None
    means = torch.stack([values[torch.from_numpy(i)].mean(0) for i in shop.lists])

    def edits(view: View, where: Where) -> list[Edit]:
        del where  # one vector an image
        return [bench.write_vector(role, means[list(view.draws)])]

    return Part(
        name=role, code="suppressed_by_balancing", role=role, said=f"{role} as donors have them",
        edits=edits,
    )  # fmt: skip


def mixed_columns(shop: Workshop, view: View, roles: list[str]) -> Floats | None:
    """Return what relevance may be made of, `[example, patch, column]`."""
    maps = [shop.read(view.run, role) for role in roles]
    if not maps or any(one is None for one in maps):
        return None
    scores = np.stack([one for one in maps if one is not None], -1)
    weights = shop.weights_of(view.run)
    if weights is None:
        weights = np.full((len(scores), len(roles)), 1 / len(roles))
    parts_of = scores * weights[:, None, :]
    total = parts_of.sum(-1, keepdims=True)
    level = total.mean(1, keepdims=True)
    below = np.where(np.abs(total + level) > 1e-12, total + level, 1e-12)
    wide = np.broadcast_to(level, total.shape)
    shares = np.clip(total / below, -10, 10)
    return np.concatenate([scores, parts_of, total, total**2, wide, shares, shares**2], -1)


def _mix(shop: Workshop, roles: list[str]) -> Part | None:
    bench, role = shop.bench, "relevance"
    if bench.writable(role) is None:
        return None
    columns = mixed_columns(shop, shop.donor_view(), roles)
    values = shop.read(bench.donors.run, role)
    if columns is None or values is None:
        return None
    fits = [_fit(columns[i], values[i]) for i in shop.lists]

    def edits(view: View, where: Where) -> list[Edit]:
        found = mixed_columns(shop, view, roles)
        if found is None:
            return []
        wanted = np.stack([fits[d](one) for d, one in zip(view.draws, found, strict=True)])
        return shop.write_map(view, role, wanted, where)

    return Part(
        name="mix", code="mix_departs_from_scores", role=role,
        said="relevance as scores and weights make it elsewhere", edits=edits,
    )  # fmt: skip


def _curve(shop: Workshop) -> Part | None:
    bench, role = shop.bench, "demand"
    if bench.writable(role) is None:
        return None
    given, values = shop.read(bench.donors.run, "relevance"), shop.read(bench.donors.run, role)
    if given is None or values is None:
        return None
    fits = [ref.Rising.fit(given[i].ravel(), values[i].ravel()) for i in shop.lists]

    def edits(view: View, where: Where) -> list[Edit]:
        found = shop.read(view.run, "relevance")
        if found is None:
            return []
        wanted = np.stack([fits[d](one) for d, one in zip(view.draws, found, strict=True)])
        return shop.write_map(view, role, wanted, where)

    return Part(
        name="curve", code="allocator_curve", role=role,
        said="demand as this relevance has it elsewhere", edits=edits,
    )  # fmt: skip


def spends(shop: Workshop, totals: Floats, said: str) -> Part | None:
    """Return the part that spends a total: the multiplier is scaled until the sum is met.

    Args:
        shop: bench and goal.
        totals: what is spent in all, for each resample.
        said: the experiment.
    """
    from arrcoc_verify.graph import resume

    bench, role = shop.bench, "multiplier"
    site = bench.writable(role)
    if site is None or site.per_patch:
        return None

    def edits(view: View, where: Where) -> list[Edit]:
        del where  # one number an image
        wanted = totals[list(view.draws)]
        value = view.run[site.name]
        short = view.run.allocation.tokens.sum(1).numpy() < wanted * (1 - 1e-3)
        low, high = np.zeros(len(wanted)), np.full(len(wanted), 8.0)
        for _ in range(14):  # the sum rises with the multiplier
            middle = (low + high) / 2
            factor = torch.from_numpy(np.exp2(middle)).reshape(-1, *[1] * (value.ndim - 1))
            tried = Edit(site=site.name, value=value * factor.to(value.dtype))
            spent = resume(view.run, edits=[tried]).allocation.tokens.sum(1).numpy()
            low, high = (
                np.where(spent < wanted, middle, low),
                np.where(spent < wanted, high, middle),
            )
        factor = torch.from_numpy(np.where(short, np.exp2(high), 1.0))
        factor = factor.reshape(-1, *[1] * (value.ndim - 1)).to(value.dtype)
        return [Edit(site=site.name, value=value * factor, label="spend the budget")]

    return Part(name="multiplier", code="allocator_multiplier", role=role, said=said, edits=edits)


def _multiplier(shop: Workshop) -> Part | None:
    spent = shop.bench.donors.run.allocation.tokens.sum(1).numpy()
    totals = np.array([np.median(spent[i]) for i in shop.lists])
    return spends(shop, totals, "as much spent in all as for donors")


def _allocator(shop: Workshop) -> Part | None:
    """What is bought to tokens, as for donors.

    By demand times multiplier where both can be read; else from relevance: by rank where the total
    is kept, since there one patch's tokens hang on the others, and by value where it is not.
    """
    bench, role = shop.bench, "tokens"
    values = shop.read(bench.donors.run, role)
    given = _bought(shop, bench.donors.run)
    if bench.writable(role) is None or given is None or values is None:
        return None
    fits = [ref.Rising.fit(given[i].ravel(), values[i].ravel()) for i in shop.lists]

    def edits(view: View, where: Where) -> list[Edit]:
        found = _bought(shop, view.run)
        if found is None:
            return []
        pairs = zip(view.draws, found, strict=True)
        return shop.write_map(view, role, np.stack([fits[d](one) for d, one in pairs]), where)

    return Part(
        name="allocator", code="allocator_curve", role=role,
        said="tokens as the same demand or relevance gets them elsewhere", edits=edits,
    )  # fmt: skip


def _bought(shop: Workshop, run: Run) -> Floats | None:
    demand, site = shop.read(run, "demand"), shop.bench.model.role("multiplier")
    if demand is not None and site is not None and not site.per_patch:
        multiplier = run[site.name].double().reshape(len(run), -1)
        if multiplier.shape[1] == 1:
            return np.asarray(demand * multiplier.numpy())
    found = shop.read(run, "relevance")
    if found is None:
        return None
    return ranks(found) if shop.bench.model.declaration.conserved_total else found


def ranks(values: Floats) -> Floats:
    """Return the share of the other patches that each exceeds, ties half, `[example, patch]`."""
    ordered = np.sort(values, 1)
    made = np.empty_like(values)
    for row, one in enumerate(values):
        below = np.searchsorted(ordered[row], one, "left")
        upto = np.searchsorted(ordered[row], one, "right")
        made[row] = (below + upto - 1) / 2 / max(values.shape[1] - 1, 1)
    return made
