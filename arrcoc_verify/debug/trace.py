"""Along the way from scores to tokens: where the region stands, and which features fire there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.by_donors import ranks
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.parts import channels, scorers
from arrcoc_verify.effect import frozen_for
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.graph import Edit, Run
from arrcoc_verify.intervention import freeze
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import SCORERS, TENSIONS, patches_last

MAPS = (
    "information", "salience", "query_relevance", "mix", "relevance", "demand", "lod", "tokens",
    "membership",
)  # fmt: skip
MOST_FEATURES = 5
LEAST_SPREAD = 0.1
"""Least spread of a channel that counts, as a share of the channels' median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One map on the way.

    Attributes:
        role: of the site.
        site: its name.
        stage: its stage.
        region: mean over the region.
        rest: mean elsewhere in the picture.
        rank: share of the picture's patches that the region's exceed, 0..1.
        donors: the same rank for donors' objects, mean; None without donors.
    """

    role: str
    site: str
    stage: str
    region: float
    rest: float
    rank: float
    donors: float | None


def stations(bench: Bench) -> list[Station]:
    """Return where the region stands at each map, in the order of data."""
    found = []
    for role in MAPS:
        site, values = bench.model.role(role), bench.map(bench.clean, role)
        if site is None or values is None:
            continue
        inside = bench.case.cells[None]
        donors = bench.map(bench.donors.run, role) if bench.donors.scenes else None
        beside = None
        if donors is not None:
            beside = float(mean_over(_ranks(donors), bench.donors.cells).mean())
        outside = ~inside if not bool(inside.all()) else inside
        found.append(
            Station(
                role=role, site=site.name, stage=site.stage,
                region=float(mean_over(values, inside)[0]),
                rest=float(mean_over(values, outside)[0]),
                rank=float(mean_over(_ranks(values), inside)[0]), donors=beside,
            )
        )  # fmt: skip
    return found


def _ranks(values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(ranks(values.numpy()))


def waterfall(bench: Bench) -> list[tuple[str, float]]:
    """Return how the region's tokens come about: scores flat, then given back one by one."""
    roles = scorers(bench.model)
    steps = []
    for count in range(len(roles) + 1):
        edits = [edit for role in roles[count:] if (edit := _flat(bench, role)) is not None]
        after = bench.after(edits, bench.clean) if edits else bench.clean
        label = "scores flat" if count == 0 else f"+ {roles[count - 1].replace('_', ' ')}"
        steps.append((label, float(bench.tokens(after)[0])))
    return steps


def _flat(bench: Bench, role: str) -> Edit | None:
    values = bench.map(bench.clean, role)
    if values is None:
        return None
    return bench.write_map(role, values.mean(1, keepdim=True).expand_as(values).clone())


def paths(bench: Bench) -> list[dict[str, Any]]:
    """Return what each score carries to the region: brought down to the picture's mean there.

    Direct: the budget multiplier is held (`local`); mediated: what the shared budget does.
    """
    made: list[dict[str, Any]] = []
    held = frozen_for(bench.model, "local")
    for role in scorers(bench.model):
        values = bench.map(bench.clean, role)
        if values is None:
            continue
        lowered = torch.where(bench.case.cells[None], values.mean(1, keepdim=True), values)
        edit = bench.write_map(role, lowered)
        total = float(bench.tokens(bench.after([edit], bench.clean))[0]) - bench.before
        local = None
        if held is not None:
            holds = [freeze(name, bench.clean) for name in held]
            local = float(bench.tokens(bench.after([edit, *holds], bench.clean))[0]) - bench.before
        made.append(
            {
                "through": role, "carries": -total, "direct": None if local is None else -local,
                "mediated": None if local is None else local - total,
            }
        )  # fmt: skip
    return made


def levers(bench: Bench) -> list[dict[str, Any]]:
    """Return what the region gets with each tension at either end of its range, others held."""
    site, found = bench.writable("tensions"), bench.vector(bench.clean, "tensions")
    if site is None or found is None:
        return []
    columns = channels(bench.model, "tensions", TENSIONS, found.shape[1])
    names = columns or {f"channel {k}": k for k in range(found.shape[1])}
    made = []
    for name, place in names.items():
        row: dict[str, Any] = {"tension": name, "now": float(found[0, place])}
        for end, value in zip(("low", "high"), bench.model.declaration.tension_range, strict=True):
            moved = found.clone()
            moved[:, place] = value
            edit = bench.write_vector("tensions", moved)
            row[end] = float(bench.tokens(bench.after([edit], bench.clean))[0])
        made.append(row)
    return made


def features(bench: Bench, goal: Goal) -> list[dict[str, Any]]:
    """Return, for each vector site, which channels stand off in the region, and what they do.

    Each channel's mean over the region is compared with donors' objects that got what they should;
    then donors' values are written: all channels, the few that stand off most, and as placebo as
    many drawn at random.
    """
    donors = bench.donors
    keep = torch.from_numpy(bench.right(goal)) if donors.scenes else torch.zeros(0).bool()
    if int(keep.sum()) < 2:
        keep = torch.ones(len(donors.scenes), dtype=torch.bool)
    if not len(keep):
        return []
    made = []
    for site in bench.model.sites.values():
        if not (site.role or "").endswith("_features") or not site.per_patch or not site.writable:
            continue
        try:
            made.append(_features(bench, site.name, keep))
        except ArrcocError:
            continue
    return made


def _features(bench: Bench, name: str, keep: torch.Tensor) -> dict[str, Any]:
    site = bench.model.site(name)
    here = _region_mean(bench, bench.clean, name, bench.case.cells[None])[0]
    there = _region_mean(bench, bench.donors.run, name, bench.donors.cells)[keep]
    centre, spread = there.mean(0), there.std(0, unbiased=False)
    # A channel that is dead in all donors has no spread to measure by: a common one stands in.
    spread = spread.clamp(min=max(float(spread.median()) * LEAST_SPREAD, 1e-9))
    distance = (here - centre) / spread
    order = distance.abs().argsort(descending=True)
    rng = np.random.default_rng(bench.seed)
    few = min(MOST_FEATURES, len(order))
    groups = {
        "all": order, "most distant": order[:few],
        "placebo": torch.from_numpy(rng.permutation(len(order))[:few].copy()),
    }  # fmt: skip
    effects = {
        key: float(_shifted(bench, name, centre - here, chosen)) - bench.before
        for key, chosen in groups.items()
    }
    return {
        "site": name, "stage": site.stage, "effects": effects,
        "channels": [
            {"channel": int(k), "here": float(here[k]), "donors": float(centre[k]),
             "distance": float(distance[k])}
            for k in order[:few]
        ],
    }  # fmt: skip


def _region_mean(bench: Bench, run: Run, name: str, cells: torch.Tensor) -> torch.Tensor:
    values = patches_last(run[name], bench.model.site(name), bench.grid).double()
    weight = cells.double()[..., None]
    return (values * weight).sum(1) / weight.sum(1)


def _shifted(bench: Bench, name: str, push: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    site = bench.model.site(name)
    change = torch.zeros_like(push)
    change[chosen] = push[chosen]
    shape = [1] * len(site.axes)
    shape[site.axes.index("channel")] = len(change)
    edit = Edit(
        site=name, write=lambda old: old + change.reshape(shape).to(old.dtype),
        where=bench.case.cells,
    )  # fmt: skip
    return bench.tokens(bench.after([edit], bench.clean))[0]


def maps_of(bench: Bench, run: Run, row: int = 0) -> Mapping[str, NDArray[np.float64]]:
    """Return the maps that a case file shows, `[row, column]` each."""
    found = {}
    for role in MAPS:
        values = bench.map(run, role)
        if values is not None and role not in ("mix", "demand", "lod"):
            found[role] = values[row].reshape(bench.grid).numpy()
    return found


def levels_of(bench: Bench, run: Run, row: int = 0) -> dict[str, dict[str, float]]:
    """Return tensions and weights of a run by name, where the model has them."""
    found = {}
    for role, names in (("tensions", TENSIONS), ("weights", SCORERS)):
        values = bench.vector(run, role)
        if values is None:
            continue
        columns = channels(bench.model, role, names, values.shape[1])
        known = columns or {f"channel {k}": k for k in range(values.shape[1])}
        found[role] = {name: float(values[row, k]) for name, k in known.items()}
    return found
