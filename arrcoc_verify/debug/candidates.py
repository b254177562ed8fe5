"""Candidates for a repair: the edits that turn values as they are into values as they should be."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc_verify.debug import derive, remedies
from arrcoc_verify.debug import reference as ref
from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.carried import carried
from arrcoc_verify.debug.diagnosis import Diagnosis
from arrcoc_verify.debug.parts import Part, View
from arrcoc_verify.debug.patching import PatchEdit, applied
from arrcoc_verify.debug.places import moves_of
from arrcoc_verify.debug.remedies import Candidate
from arrcoc_verify.debug.weights import of_weights
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.model import patches_last

KNOTS = 9
"""Knots of a curve, at most."""

SIZES = (0.5, 0.75, 1.0)
"""Parts of the way to what a vector should be: the least that suffices moves least elsewhere."""

POWERS = (1, 2, 3, 4, 6, 8)
"""Of relevance, that demand is tried as."""

MOST_OF_EACH = 8
"""Candidates of each of two causes that are tried together."""


def propose(found: Diagnosis) -> list[list[Candidate]]:
    """Return candidates for what a diagnosis named, smallest first.

    They come in groups: what acts at the cause itself, then what makes up for it further on. A
    later group is for cases that no candidate of an earlier one mends.
    """
    code = found.causes[0].code if found.causes else ""
    at_cause = {
        "preprocessing": remedies.of_pictures, "query_mismatch": remedies.of_queries,
        "budget_competition": remedies.of_budget,
    }  # fmt: skip
    groups = [at_cause[code](found)] if code in at_cause else []
    narrow = remedies.of_likeness(found)
    inside = [remedies.of_embeddings(found)] if code == "query_mismatch" else []
    inside.append(_of_parts(found))
    if code == "budget_competition":
        groups = [[*group, *narrow] for group in groups]
    groups += [[*group, *narrow] for group in inside if group]
    return [group for group in groups or [narrow] if group]


def _of_parts(found: Diagnosis) -> list[Candidate]:
    lists = [_of_part(found, k) for k in range(len(found.parts))]
    if not lists or not all(lists):
        return []
    if len(lists) > 1:
        lists = [_closest(found, k, edits)[:MOST_OF_EACH] for k, edits in enumerate(lists)]
    made: list[Candidate] = [(edit,) for edit in lists[0]]
    for more in lists[1:]:
        made = [(*one, edit) for one in made for edit in more]
    return sorted(made, key=lambda edits: sum(edit.numbers for edit in edits))


def _closest(found: Diagnosis, place: int, edits: list[PatchEdit]) -> list[PatchEdit]:
    """Return edits in the order of how near they come to what the part should give, alone."""
    bench, part = found.bench, found.parts[place]
    wanted = _values(bench, part, part.restored(bench, _start(found, place)))
    if wanted is None:
        return edits

    def miss(edit: PatchEdit) -> float:
        try:
            run = carried(applied(bench.model, [edit]), bench.clean, bench.inner)
        except ArrcocError:
            return float("inf")
        cells = found.case.cells[None]
        got = _values(bench, part, View(run=run, cells=cells, draws=[0]))
        return float("inf") if got is None else float((got[0] - wanted[0]).abs().mean())

    return sorted(edits, key=miss)


# Values as they are and as they should be


@dataclass(frozen=True, kw_only=True, eq=False)
class _Both:
    """A part's values in case and donors, before and after it is put right."""

    actual: Tensor
    wanted: Tensor
    cells: Tensor


def _both(found: Diagnosis, place: int, trial_view: View) -> _Both | None:
    """Return `[example, patch]` (or `[example, channel]`) of the case, then of the donors."""
    bench, part = found.bench, found.parts[place]
    rows = [(trial_view, 1)]
    donors = bench.donors
    if donors.scenes:
        rows.append((View(run=donors.run, cells=donors.cells, draws=[0] * len(donors.scenes)),
                     len(donors.scenes)))  # fmt: skip
    actual, wanted, cells = [], [], []
    for view, count in rows:
        after = part.restored(bench, view)
        one, two = _values(bench, part, view), _values(bench, part, after)
        if one is None or two is None:
            return None
        actual.append(one[:count])
        wanted.append(two[:count])
        cells.append(view.cells[:count])
    return _Both(actual=torch.cat(actual), wanted=torch.cat(wanted), cells=torch.cat(cells))


def _values(bench: Bench, part: Part, view: View) -> Tensor | None:
    site = bench.model.role(part.role)
    if site is None:
        return None
    if part.role in ("weights", "tensions"):
        return bench.vector(view.run, part.role)
    if site.per_patch:
        return bench.map(view.run, part.role)
    return view.run[site.name].double().reshape(len(view.run), -1)


def _of_part(found: Diagnosis, place: int) -> list[PatchEdit]:
    part = found.parts[place]
    site = found.bench.model.role(part.role)
    if site is None:
        return []
    view = _start(found, place)
    both = _both(found, place, view)
    if both is None:
        return []
    if part.role in ("weights", "tensions"):
        return _of_vectors(found, part, both)
    made = [*_derived(found, part, both, view), *_of_numbers(site.name, both)]
    if not site.per_patch:
        return made
    rank_ones = _rank_ones(found, part)
    here = [_only_here(edit, found) for edit in (*made, *rank_ones)]
    moves = [
        PatchEdit(kind="place", target=site.name, words={"operation": name},
                  said=f"{site.name} {name}")
        for name in moves_of(found.bench.grid) if both.actual.shape == both.cells.shape
    ]  # fmt: skip
    return [
        *moves, *made, *rank_ones, *of_weights(found, part), *here, *_powers(found, part),
        *_demanded(found, part),
    ]  # fmt: skip


def _only_here(edit: PatchEdit, found: Diagnosis) -> PatchEdit:
    """The same edit in the region's patches only, for a fault that lies at a place."""
    mask = found.case.cells.double()
    said = f"{edit.said}, in {int(mask.sum())} patches"
    return replace(edit, tensors={**edit.tensors, "mask": mask}, said=said)


def _powers(found: Diagnosis, part: Part) -> list[PatchEdit]:
    """Demand as a power of relevance: a curve that the multiplier then pays for."""
    model = found.bench.model
    site, related = model.role("demand"), found.bench.map(found.bench.clean, "relevance")
    form, names = derive.inputs_of(model, "demand")
    if part.role not in ("demand", "tokens") or site is None or not names or related is None:
        return []
    low, high = model.declaration.relevance_range or (0.0, max(1.0, float(related.max())))
    knots = torch.linspace(low, high, 2 * KNOTS, dtype=torch.float64)
    line = {"weight": torch.ones(1, dtype=torch.float64), "bias": _number(0.0), "x": knots}
    return [
        PatchEdit(
            kind="derive", target=site.name, words={"form": form, "inputs": "|".join(names)},
            tensors={**line, "y": ((knots - low) / (high - low)) ** power + 1e-6},
            said=f"{site.name} read anew from {names[0]}, to the power of {power}",
        )
        for power in POWERS
    ]  # fmt: skip


def _demanded(found: Diagnosis, part: Part) -> list[PatchEdit]:
    """A greater demand in the region: the budget is shared out behind it, so totals stay."""
    site = found.bench.writable("demand")
    if part.role != "tokens" or site is None or found.failure.goal.sign < 0:
        return []
    return [remedies.raised(site.name, gain, found.case.cells) for gain in remedies.GAINS]


def _derived(found: Diagnosis, part: Part, both: _Both, view: View) -> list[PatchEdit]:
    """The part's map made anew from what lies before it."""
    model, bench = found.bench.model, found.bench
    site = model.role(part.role)
    if site is None or both.actual.shape != both.cells.shape:
        return []
    rows = [(view.run, 1), (bench.donors.run, len(both.actual) - 1)]
    made = []
    for form, names in derive.forms_of(model, part.role):
        read = [torch.cat([run[name][:count] for run, count in rows if count]) for name in names]
        given = derive.read_columns(model, form, names, read)
        tries = {
            "as it is written": derive.plain(form, model.declaration.lod),
            "as it should be": derive.fitted(form, given, both.wanted, both.cells),
            "as it is elsewhere": derive.fitted(form, given, _mostly(both), both.cells),
        }
        made += [
            PatchEdit(
                kind="derive", target=site.name, tensors=numbers,
                words={"form": form, "inputs": "|".join(names)},
                said=f"{site.name} read anew from {', '.join(names)} ({whose})",
            )
            for whose, numbers in tries.items() if numbers is not None
        ]  # fmt: skip
    return made


def _mostly(both: _Both) -> Tensor:
    """Return the donors' values as they are, and the case's as they should be."""
    return torch.cat([both.wanted[:1], both.actual[1:]])


def _start(found: Diagnosis, place: int) -> View:
    bench = found.bench
    view = View(
        run=bench.many, cells=bench.case.cells.expand(len(bench.many), -1),
        draws=range(len(bench.many)),
    )  # fmt: skip
    for part in found.parts[:place]:
        view = part.restored(bench, view)
    return view


def _of_numbers(site: str, both: _Both) -> list[PatchEdit]:
    """Gain, gain and bias, power, and curve that turn the actual values into the wanted ones."""
    x, y = both.actual.flatten().numpy(), both.wanted.flatten().numpy()
    own, wanted = both.actual[0].numpy(), both.wanted[0].numpy()
    made = []
    for u, v, whose in ((x, y, "case and donors"), (own, wanted, "the case")):
        if float(u @ u) > 0:
            gain = float(u @ v) / float(u @ u)
            made.append(_affine(site, gain, 0.0, whose))
        if np.ptp(u) > 0:
            slope, bias = np.polyfit(u, v, 1)
            made.append(_affine(site, float(slope), float(bias), whose))
    inside = both.cells[:1].numpy()
    if inside.shape == both.actual[:1].shape:
        here, there = own[inside[0]].mean(), wanted[inside[0]].mean()
        made.append(_affine(site, 1.0, float(there - here), "the region"))
        if here > 0 and there > 0:
            made.append(_affine(site, float(there / here), 0.0, "the region"))
    good = (x > 1e-9) & (y > 1e-9)
    if good.sum() > 10 and np.ptp(np.log(x[good])) > 0:
        exponent, log = np.polyfit(np.log(x[good]), np.log(y[good]), 1)
        if exponent > 0:
            made.append(
                PatchEdit(
                    kind="power",
                    target=site,
                    said=f"{site} to the power of {exponent:.3g}",
                    tensors={"exponent": _number(exponent), "scale": _number(np.exp(log))},
                )
            )
    curve = _curve(site, x, y)
    return [*made, *([curve] if curve is not None else [])]


def _number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def _affine(site: str, gain: float, bias: float, whose: str) -> PatchEdit:
    said = f"{site} times {gain:.3g}" + (f" plus {bias:.3g}" if bias else "")
    return PatchEdit(
        kind="affine", target=site, said=f"{said} (fitted on {whose})",
        tensors={"gain": _number(gain), "bias": _number(bias)},
    )  # fmt: skip


def _curve(site: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> PatchEdit | None:
    if np.ptp(x) <= 0:
        return None
    fit = ref.Rising.fit(x, y)
    knots = np.unique(np.quantile(x, np.linspace(0, 1, KNOTS)))
    if len(knots) < 3:
        return None
    return PatchEdit(
        kind="curve", target=site, said=f"{site} by a curve of {len(knots)} knots",
        tensors={"x": torch.from_numpy(knots), "y": torch.from_numpy(fit(knots))},
    )  # fmt: skip


def _of_vectors(found: Diagnosis, part: Part, both: _Both) -> list[PatchEdit]:
    site = found.bench.model.role(part.role)
    if site is None:
        return []
    own, wanted = both.actual[0], both.wanted[0]
    made = []
    if part.role == "weights" and bool((own > 1e-9).all() and (wanted > 1e-9).all()):
        log = (wanted / own).log()
        made.append(
            PatchEdit(kind="tilt", target=site.name, tensors={"log": log - log.mean()},
                      said=f"{site.name} tilted towards what they should be")
        )  # fmt: skip
        alone = torch.zeros_like(log)
        place = int(log.argmax())
        alone[place] = log[place] - log[[k for k in range(len(log)) if k != place]].mean()
        made.append(
            PatchEdit(kind="tilt", target=site.name, tensors={"log": alone},
                      said=f"channel {place} of {site.name} raised alone")
        )  # fmt: skip
    if part.role == "weights" and torch.allclose(own.sort().values, wanted.sort().values):
        made += [
            PatchEdit(kind="permute", target=site.name, tensors={"order": order},
                      said=f"channels of {site.name} in the order {order.tolist()}")
            for order in _orders(own, wanted)
        ]  # fmt: skip
    made += _of_alike(site.name, both)
    low, high = found.bench.model.declaration.tension_range
    if part.role == "weights":
        low, high = 0.0, float(max(own.sum(), wanted.sum()))
    push = {"low": _number(low), "high": _number(high)}
    change = wanted - own
    one = torch.zeros_like(change)
    place = int(change.abs().argmax())
    one[place] = change[place]
    for size in SIZES:
        for bias, said in (
            (one * size, f"channel {place} of {site.name} by {size * float(change[place]):+.2g}"),
            (change * size, f"{site.name} by {[round(size * c, 2) for c in change.tolist()]}"),
        ):
            made.append(PatchEdit(kind="bias", target=site.name, said=said,
                                  tensors={"bias": bias, **push}))  # fmt: skip
    return made


def _of_alike(site: str, both: _Both) -> list[PatchEdit]:
    """The whole change for vectors like the case's only, where it lies away from the donors'."""
    own, wanted, others = both.actual[0], both.wanted[0], both.actual[1:]
    if not len(others):
        return []
    centre = others.mean(0)
    key = own - centre
    if float(key.norm()) <= 1e-6 * float(own.norm()):
        return []
    return [
        remedies.gated(
            site, key, centre, wanted - own, f"{site} shifted where it is like the case's", least
        )
        for least in (0.5, 0.8)
    ]


def _orders(own: Tensor, wanted: Tensor) -> list[Tensor]:
    """Return channel orders that turn one vector into the other: the swap, and the rotation."""
    count = len(own)
    turns = [torch.arange(count).roll(k) for k in range(1, count)]
    swap = torch.tensor([int((own - w).abs().argmin()) for w in wanted])
    found = [turn for turn in turns if int(own[turn].argmax()) == int(wanted.argmax())]
    return found + ([swap] if len(set(swap.tolist())) == count else [])


def _rank_ones(found: Diagnosis, part: Part) -> list[PatchEdit]:
    """Rank-one edits of the vectors that the scorer reads: what is like the region gets a push."""
    bench, role = found.bench, f"{part.role}_features"
    if part.role == "relevance":
        role = "balancing_features"
    if part.role in ("demand", "tokens"):
        role = "attending_features"
    site = bench.model.role(role)
    if site is None or not site.writable or not site.per_patch or "channel" not in site.axes:
        return []
    here = patches_last(bench.clean[site.name], site, bench.grid).double()[0]
    inside = bench.case.cells
    centre, mean = here[~inside].mean(0), here[inside].mean(0)
    donors = bench.donors
    there = patches_last(donors.run[site.name], site, bench.grid).double()[donors.cells]
    key = mean - centre
    if not len(there) or float(key.norm()) <= 1e-9:
        return []
    delta = there.mean(0) - mean
    return [
        remedies.gated(
            site.name, key, centre, delta * size,
            f"rank-one edit of {site.name} for what is like the region", least,
        )
        for least in (0.0, 0.5, 0.8)
        for size in (1.0, 2.0)
    ]  # fmt: skip
