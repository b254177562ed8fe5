"""Parts put right as their roles promise: for a model that is wrong everywhere, so has no donors.

Each stays, as far as it can, inside the values that the part has anyway: they are handed out in
another order. Bolder changes (another range, all the weight on one scorer) have a higher strength
and are tried only where none of the milder ones brings the tokens back.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from arrcoc_verify.debug import reference as ref
from arrcoc_verify.debug.by_donors import ranks, spends
from arrcoc_verify.debug.parts import (
    SAID,
    Part,
    View,
    Where,
    Workshop,
    channels,
    favoured,
    scorers,
)
from arrcoc_verify.debug.pictures import ESTIMATOR
from arrcoc_verify.debug.purity import purified
from arrcoc_verify.graph import Edit
from arrcoc_verify.model import SCORERS

Floats = NDArray[np.float64]

FLAT = 1e-6
"""A map whose range is a smaller part than this of the widest scorer's says nothing at all."""

MILD, RANGE, BOLD = 1, 2, 3

BROAD = "describe everything in this picture"
"""A query for no particular thing: a balancer that hears the query weighs it otherwise."""


def parts(shop: Workshop) -> list[Part]:
    """Return every part that this model has, milder changes first, then in the order of data."""
    roles = scorers(shop.bench.model)
    made: list[Part] = []
    for role in roles:
        made += [_ordered(shop, role), _ranged(shop, role)]
        made += [_mirrored(shop, role)] if _contrary(shop, role) else []
        pure = purified(shop, role)
        made += [pure] if pure is not None else []
        made += [_oracle(shop)] if role == "query_relevance" else []
    if len(roles) > 1:
        made.append(_all_ordered(shop, roles))
    made += [p for p in (_tension(shop), *_weights(shop), *_mix(shop, roles)) if p is not None]
    made += [p for p in (_spent(shop), _reordered(shop), _steep(shop)) if p is not None]
    return sorted(made, key=lambda part: part.strength)


def broken(shop: Workshop) -> list[Part]:
    """Return what puts right the contracts that a case breaks for sure.

    A scorer's sign is turned, or relevance is out of the order of the weighted scores.
    """
    roles = scorers(shop.bench.model)
    mix = _mix(shop, roles)
    turned = [_mirrored(shop, role) for role in roles if _contrary(shop, role)]
    return [*turned, *(mix if len(mix) > 1 else [])]  # its shape is tried only where order differs


def _wanted_order(shop: Workshop, view: View, role: str) -> Floats:
    """Return what a scorer should measure, `[example, patch]`: only its order is used."""
    if role in ESTIMATOR:
        return np.asarray(shop.seen(view.run)[..., ESTIMATOR[role]])
    actual = shop.read(view.run, role)
    base = ranks(actual) if actual is not None else np.zeros(view.cells.shape)
    return np.asarray(base + 2.0 * shop.goal.sign * view.cells.numpy())


def _widest(shop: Workshop, view: View, row: int, instead: str) -> Floats:
    """Return the values of the widest other scorer, or 0..1 where all are flat."""
    found = [shop.read(view.run, role) for role in scorers(shop.bench.model) if role != instead]
    maps = [one[row] for one in found if one is not None and np.ptp(one[row]) > 0]
    if not maps:
        return np.linspace(0, 1, view.cells.shape[1])
    return max(maps, key=lambda one: float(np.ptp(one)))


def _ordered(shop: Workshop, role: str) -> Part:
    def edits(view: View, where: Where) -> list[Edit]:
        actual = shop.read(view.run, role)
        if actual is None:
            return []
        order = _wanted_order(shop, view, role)
        made = np.empty_like(actual)
        for row in range(len(actual)):
            own, other = actual[row], _widest(shop, view, row, role)
            flat = np.ptp(own) <= FLAT * max(float(np.ptp(other)), 1e-12)
            made[row] = ref.matched(order[row], other if flat else own)
            if flat and role == "query_relevance":  # nothing of its own to hand out
                asked = view.cells[row].numpy() == (shop.goal.sign > 0)
                made[row] = np.where(asked, other.max(), other.min())
        return shop.write_map(view, role, made, where)

    what = "where it is asked for" if role == "query_relevance" else "where its estimator is high"
    return Part(
        name=f"scorer:{role}", code="scorer_blind", role=role,
        said=f"the values of {SAID[role]} handed out anew, highest {what}", edits=edits,
        strength=MILD,
    )  # fmt: skip


def _contrary(shop: Workshop, role: str) -> bool:
    """Return whether a scorer falls where what it should measure rises, over case and donors."""
    views = [_once(shop), *([shop.donor_view()] if shop.bench.donors.scenes else [])]
    total = 0.0
    for view in views:
        actual = shop.read(view.run, role)
        if actual is None:
            return False
        if role in ESTIMATOR:
            wanted = shop.seen(view.run)[..., ESTIMATOR[role]]
        else:
            wanted = view.cells.numpy().astype(float)
        centred = wanted - wanted.mean(1, keepdims=True)
        total += float((centred * (actual - actual.mean(1, keepdims=True))).sum())
    return total < 0


def _mirrored(shop: Workshop, role: str) -> Part:
    def edits(view: View, where: Where) -> list[Edit]:
        actual = shop.read(view.run, role)
        if actual is None:
            return []
        ends = actual.min(1, keepdims=True) + actual.max(1, keepdims=True)
        return shop.write_map(view, role, ends - actual, where)

    return Part(
        name=f"scorer:{role}/sign", code="scorer_blind", role=role,
        said=f"{SAID[role]} with its sign turned", edits=edits, strength=MILD,
    )  # fmt: skip


def _ranged(shop: Workshop, role: str) -> Part:
    def edits(view: View, where: Where) -> list[Edit]:
        actual = shop.read(view.run, role)
        if actual is None:
            return []
        made = actual.copy()
        for row, one in enumerate(actual):
            other = _widest(shop, view, row, role)
            span = float(np.ptp(one))
            if 0 < span < float(np.ptp(other)):
                made[row] = one.min() + (one - one.min()) / span * float(np.ptp(other))
        return shop.write_map(view, role, made, where)

    return Part(
        name=f"scorer:{role}/range", code="scorer_blind", role=role,
        said=f"{SAID[role]} stretched to the range of the widest scorer", edits=edits,
        strength=RANGE,
    )  # fmt: skip


def _oracle(shop: Workshop) -> Part:
    role = "query_relevance"

    def edits(view: View, where: Where) -> list[Edit]:
        actual = shop.read(view.run, role)
        if actual is None:
            return []
        inside = view.cells.numpy() if shop.goal.sign > 0 else ~view.cells.numpy()
        made = np.where(inside, actual.max(1, keepdims=True), actual.min(1, keepdims=True))
        return shop.write_map(view, role, made, where)

    most, least = ("highest", "lowest")[:: shop.goal.sign]
    return Part(
        name=f"scorer:{role}/all or nothing", code="scorer_blind", role=role,
        said=f"query relevance at its {most} in the region and at its {least} elsewhere",
        edits=edits, strength=BOLD,
    )  # fmt: skip


def _all_ordered(shop: Workshop, roles: list[str]) -> Part:
    singles = [_ordered(shop, role) for role in roles]

    def edits(view: View, where: Where) -> list[Edit]:
        return [edit for part in singles for edit in part.edits(view, where)]

    return Part(
        name="scorers", code="scorer_blind", role="", edits=edits, strength=RANGE,
        said="the values of every score handed out anew, highest where they should be",
    )  # fmt: skip


def _exchanged(values: torch.Tensor, place: int) -> torch.Tensor:
    """Return vectors in which the largest entry and that at `place` have changed places."""
    made = values.clone()
    rows = torch.arange(len(values))
    top = values.argmax(1)
    made[rows, top], made[:, place] = values[:, place], values[rows, top]
    return made


def _under_broad(shop: Workshop, role: str) -> torch.Tensor:
    """Return the case's weights when everything is asked for, `[channel]`."""
    from arrcoc_verify.graph import ask

    bench = shop.bench
    asked = ask(bench.clean, [BROAD], read=bench.inner)
    found = bench.vector(asked, role)
    return found[0] if found is not None else torch.zeros(1)


def _tension(shop: Workshop) -> Part | None:
    bench, role = shop.bench, "tensions"
    found = bench.vector(bench.clean, role)
    if found is None or bench.writable(role) is None:
        return None
    place = favoured(bench.model, found.shape[1])
    if place is None or shop.goal.sign < 0:
        return None

    def edits(view: View, where: Where) -> list[Edit]:
        del where
        values = bench.vector(view.run, role)
        if values is None:
            return []
        return [bench.write_vector(role, _exchanged(values, place))]

    return Part(
        name=role, code="suppressed_by_balancing", role=role, edits=edits, strength=MILD,
        said="the highest tension given to the one that favours query relevance",
    )  # fmt: skip


def _weights(shop: Workshop) -> list[Part]:
    bench, role = shop.bench, "weights"
    found = bench.vector(bench.clean, role)
    if found is None or bench.writable(role) is None or shop.goal.sign < 0:
        return []
    columns = channels(bench.model, role, SCORERS, found.shape[1])
    if columns is None or "query_relevance" not in scorers(bench.model):
        return []
    place = columns["query_relevance"]

    def exchanged(view: View, where: Where) -> list[Edit]:
        del where
        values = bench.vector(view.run, role)
        return [] if values is None else [bench.write_vector(role, _exchanged(values, place))]

    heard = (found[0] - _under_broad(shop, role)).abs().max() > 1e-6
    led = int(found[0].argmax()) == place

    def alone(view: View, where: Where) -> list[Edit]:
        del where
        values = bench.vector(view.run, role)
        if values is None:
            return []
        made = torch.zeros_like(values)
        made[:, place] = values.sum(1).clamp(min=float(values.abs().max()))
        return [bench.write_vector(role, made)]

    code = "suppressed_by_balancing"
    made = [
        Part(name=role, code=code, role=role, edits=exchanged, strength=MILD,
             said="the highest weight given to query relevance"),
    ]  # fmt: skip
    if led and heard:  # a balancer that hears the query and lets it lead keeps its contract
        return made
    said = "all the weight given to query relevance"
    bold = Part(name=f"{role}/all", code=code, role=role, edits=alone, strength=RANGE, said=said)
    return [*made, bold]


def _total(shop: Workshop, view: View, roles: list[str]) -> Floats | None:
    """Return the sum of the scores times their weights, `[example, patch]`."""
    weights = shop.weights_of(view.run)
    maps = [shop.read(view.run, one) for one in roles]
    if not maps or any(one is None for one in maps):
        return None
    scores = np.stack([one for one in maps if one is not None], -1)
    if weights is None:
        weights = np.full((len(scores), len(roles)), 1 / len(roles))
    return np.asarray((scores * weights[:, None, :]).sum(-1))


def _mix(shop: Workshop, roles: list[str]) -> list[Part]:
    """Relevance in the order of the weighted sum, then in its shape, inside its own range."""
    bench, role = shop.bench, "relevance"
    if bench.writable(role) is None or not roles:
        return []

    def ordered(view: View, where: Where) -> list[Edit]:
        actual, total = shop.read(view.run, role), _total(shop, view, roles)
        if actual is None or total is None:
            return []
        made = np.stack([ref.matched(z, own) for z, own in zip(total, actual, strict=True)])
        return shop.write_map(view, role, made, where)

    def shaped(view: View, where: Where) -> list[Edit]:
        actual, total = shop.read(view.run, role), _total(shop, view, roles)
        if actual is None or total is None:
            return []
        low, high = actual.min(1, keepdims=True), actual.max(1, keepdims=True)
        least, span = total.min(1, keepdims=True), np.ptp(total, axis=1)[:, None]
        scale = np.where(high - low > FLAT * span, high - low, span)
        return shop.write_map(
            view, role, low + (total - least) / np.where(span > 0, span, 1) * scale, where
        )

    code = "mix_departs_from_scores"
    made = [
        Part(name="mix", code=code, role=role, edits=ordered, strength=MILD,
             said="the values of relevance in the order of the weighted scores")
    ]  # fmt: skip
    actual, total = shop.read(bench.clean, role), _total(shop, _once(shop), roles)
    if actual is None or total is None or _same_order(actual[0], total[0]):
        return made  # relevance is what the weighted scores say, so its shape is its own
    bold = Part(
        name="mix/shape", code=code, role=role, edits=shaped, strength=RANGE,
        said="relevance in the shape of the weighted scores",
    )  # fmt: skip
    return [*made, bold]


def _once(shop: Workshop) -> View:
    return View(run=shop.bench.clean, cells=shop.bench.case.cells[None], draws=[0])


def _same_order(one: Floats, two: Floats) -> bool:
    """Return whether two maps rank patches alike, but for what rounding exchanges."""
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return False
    return float(np.corrcoef(ranks(one[None])[0], ranks(two[None])[0])[0, 1]) > 0.999


def _spent(shop: Workshop) -> Part | None:
    declared = shop.bench.model.declaration
    if not declared.conserved_total or declared.total is None:
        return None
    return spends(shop, np.array([declared.total] * 64), "the declared total spent")


def _reordered(shop: Workshop) -> Part | None:
    bench, role = shop.bench, "tokens"
    if bench.writable(role) is None or bench.map(bench.clean, "relevance") is None:
        return None

    def edits(view: View, where: Where) -> list[Edit]:
        actual, given = shop.read(view.run, role), shop.read(view.run, "relevance")
        if actual is None or given is None:
            return []
        made = np.stack([ref.matched(g, a) for g, a in zip(given, actual, strict=True)])
        return shop.write_map(view, role, np.rint(made), where)

    return Part(
        name="allocator", code="allocator_curve", role=role, edits=edits, strength=MILD,
        said="the tokens handed out anew, most to the most relevant",
    )  # fmt: skip


def _steep(shop: Workshop) -> Part | None:
    """Tokens as steep as floor, ceiling and total allow, in the order of relevance."""
    bench, role = shop.bench, "tokens"
    ends = bench.model.declaration.lod
    if ends is None or bench.writable(role) is None:
        return None
    if bench.map(bench.clean, "relevance") is None:
        return None
    low, high = ends

    def edits(view: View, where: Where) -> list[Edit]:
        actual, given = shop.read(view.run, role), shop.read(view.run, "relevance")
        if actual is None or given is None or high <= low:
            return []
        made = np.full_like(actual, low)
        declared = bench.model.declaration
        for row, one in enumerate(given):
            total = declared.total if declared.total is not None else float(actual[row].sum())
            full = int(np.clip((total - len(one) * low) / (high - low), 0, len(one)))
            made[row, np.argsort(-one, kind="stable")[:full]] = high
        return shop.write_map(view, role, made, where)

    return Part(
        name="allocator/steep", code="allocator_curve", role=role, edits=edits, strength=BOLD,
        said="most tokens for as many of the most relevant patches as the budget pays",
    )  # fmt: skip
