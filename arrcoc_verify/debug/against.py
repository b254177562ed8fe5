"""Beside another picture in which the region gets what it should: where do the two part?

Each site's activation over the other picture's region is written into the case's region, each alone
(activation patching; Zhang and Nanda, arXiv 2309.16042). What is written behind a fault brings the
tokens back, what is written before it does not. That holds for a fault of the model in this place;
where the pictures differ in content, the first site brings them back already.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import Case, Goal
from arrcoc_verify.debug.experiment import Evidence
from arrcoc_verify.errors import ArrcocError
from arrcoc_verify.graph import Edit, Run, resume
from arrcoc_verify.metric import mean_over
from arrcoc_verify.model import Output, Site

WHOLE = frozenset({"tensions", "weights", "query"})
"""Roles of vectors that are written whole."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Against:
    """What the other picture shows.

    Attributes:
        name: of the other picture.
        tokens: mean tokens per patch of its region.
        site: the first in flow that brings the tokens back, or "".
        stage: its stage, or "".
        said: the outcome in plain words.
        evidence: one experiment a site.
    """

    name: str
    tokens: float
    site: str
    stage: str
    said: str
    evidence: tuple[Evidence, ...]


def against(bench: Bench, goal: Goal, other: Case) -> Against:
    """Return where the case's region departs from that of another picture."""
    there = bench.run_on([other.image], [other.query])
    tokens = float(mean_over(there.allocation.tokens, other.cells[None])[0])
    places = _places(bench.case.cells, other.cells, bench.grid)
    rows: list[tuple[Site, Evidence]] = []
    for site in _sites(bench, there):
        try:
            edit = _edit(bench, site, there[site.name], places)
            after = resume(bench.clean, edits=[edit], read=bench.inner)
        except ArrcocError:
            continue
        got = bench.tokens(after)
        effect = float(got[0]) - bench.before
        where = "" if site.role in WHOLE else " in the region"
        rows.append((site, Evidence(
            experiment=f"{site.name}{where} as in {other.name}", code="", effect=effect,
            interval=(effect, effect), tokens=float(got[0]),
            restores="yes" if bool(goal.met(got)[0]) else "no", basis="against",
            part=f"against:{site.name}", role=site.role or "",
        )))  # fmt: skip
    first = next((site for site, one in rows if one.restores == "yes"), None)
    right = bool(goal.met(torch.tensor([tokens]))[0])
    return Against(
        name=other.name, tokens=tokens, site=first.name if first else "",
        stage=first.stage if first else "", said=_said(other.name, tokens, right, rows, first),
        evidence=tuple(one for _, one in rows),
    )  # fmt: skip


def _said(
    name: str, tokens: float, right: bool, rows: list[tuple[Site, Evidence]], first: Site | None
) -> str:
    start = f"in {name} the region gets {tokens:.4g} tokens per patch"
    if not right:
        return f"{start}, too few as well: it is no example of what is right"
    if first is None:
        return f"{start}; nothing of it, written into this region alone, brings the tokens back"
    if rows[0][0] is first:
        return (
            f"{start}; already {first.name} written from there brings them back: the two pictures "
            "differ in what they show, or in how it is encoded"
        )
    return (
        f"{start}; {first.name} is the first that brings them back when it is written from there, "
        "what lies before it does not"
    )


def _sites(bench: Bench, run: Run) -> list[Site]:
    """Return what can be written from one picture into another, in the order of data."""
    place = {step.name: at for at, step in enumerate(bench.model.steps)}
    found = [
        site for site in bench.model.sites.values()
        if site.writable and isinstance(site.at, Output) and site.stage != "realising"
        and (site.per_patch or site.role in WHOLE) and site.at.step in run.chunks[0].outputs
    ]  # fmt: skip
    return sorted(found, key=lambda site: place[site.at.step])


def _places(here: Tensor, there: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return for each patch whose it takes: inside the region, that which lies alike in the other.

    Args:
        here: bool `[patch]`, the case's region.
        there: bool `[patch]`, the other's.
        grid: rows and columns.
    """
    order = torch.arange(len(here))
    own, other = _relative(here, grid), _relative(there, grid)
    nearest = torch.cdist(own[here], other[there]).argmin(1)
    order[here] = order[there][nearest]
    return order


def _relative(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return where each patch lies in a region's box, 0..1 down and across, `[patch, 2]`."""
    at = torch.arange(len(cells))
    plane = torch.stack([at // grid[1], at % grid[1]], 1).double()
    low, high = plane[cells].amin(0), plane[cells].amax(0)
    return (plane - low + 0.5) / (high - low + 1)


def _edit(bench: Bench, site: Site, value: Tensor, places: Tensor) -> Edit:
    if not site.per_patch:
        return Edit(site=site.name, value=value)
    if "patch" in site.axes:
        moved = value.index_select(site.axes.index("patch"), places)
    else:
        axes = (site.axes.index("row"), site.axes.index("column"))
        flat = value.movedim(axes, (-2, -1)).flatten(-2).index_select(-1, places)
        moved = flat.unflatten(-1, bench.grid).movedim((-2, -1), axes)
    return Edit(site=site.name, value=moved, where=bench.case.cells)
