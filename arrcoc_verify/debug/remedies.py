"""Candidates for causes that no part's values tell: pictures, queries, the shared budget."""

import torch
from torch import Tensor

from arrcoc_verify.debug.bench import Bench
from arrcoc_verify.debug.case import Goal
from arrcoc_verify.debug.diagnosis import Diagnosis
from arrcoc_verify.debug.embedding import written
from arrcoc_verify.debug.likeness import gate, nearest
from arrcoc_verify.debug.patching import PatchEdit
from arrcoc_verify.debug.upstream import wordings_of
from arrcoc_verify.model import SCORERS, Site, patches_last

Candidate = tuple[PatchEdit, ...]
"""Edits that are made together: one for each cause."""

GAINS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""By how much a region's own claim on the budget is raised, until it suffices."""

SHARES = (0.25, 0.5, 1.0, 2.0)
"""Of a map's maximum, that are added to a region's patches where no gain suffices."""

MAPS = (*SCORERS, "relevance", "demand", "tokens")
"""Roles of the maps of the path, in the order of data."""

MOST_EMBEDDINGS = 3


def of_pictures(found: Diagnosis) -> list[Candidate]:
    """Return the operations on pictures that brought the tokens back."""
    mending = [e for e in found.evidence if e.part.startswith("picture:") and e.restores == "yes"]
    names = [e.part.partition(":")[2] for e in sorted(mending, key=lambda e: -abs(e.effect))]
    return [
        (PatchEdit(kind="picture", target="images", words={"operation": name},
                   said=f"every picture {name} before it is read"),)
        for name in names
    ]  # fmt: skip


def of_queries(found: Diagnosis) -> list[Candidate]:
    """Return rewritings of the query: what stands before its content left out, other wordings."""
    query = found.case.query
    made: list[Candidate] = []
    for text in wordings_of(query, found.case.label):
        lead = query.partition(text)
        if lead[1] and len(lead[0]) > 1:
            said = f"{lead[0]!r} left out of queries"
            made.append(
                (PatchEdit(kind="query", target="queries", words={"from": lead[0], "to": ""},
                           said=said),)
            )  # fmt: skip
        said = f"{query!r} read as {text!r}"
        made.append(
            (PatchEdit(kind="query", target="queries", words={"from": query, "to": text},
                       said=said),)
        )  # fmt: skip
    return made


def of_embeddings(found: Diagnosis) -> list[Candidate]:
    """Return edits of the query's embedding towards those that bring the tokens back.

    Each for queries like this one only (rank one), where queries differ, and for all.
    """
    bench, goal = found.bench, found.failure.goal
    made = written(bench, held=False)
    if made is None:
        return []
    own = bench.clean[made.site.name].double()[0]
    ok = goal.met(bench.tokens(made.run))
    near = (made.bank - own).norm(dim=1).where(ok, torch.tensor(float("inf"), dtype=own.dtype))
    candidates: list[Candidate] = []
    for at in near.argsort()[: min(MOST_EMBEDDINGS, int(ok.sum()))].tolist():
        push = made.bank[at] - own
        centre = bench.donors.run[made.site.name].double().mean(0)
        if float((own - centre).norm()) > 1e-6 * float(own.norm()):
            said = f"{made.site.name} shifted for queries like this one"
            candidates.append((gated(made.site.name, own - centre, centre, push, said),))
        candidates.append((_shifted(made.site, push),))
    return candidates


def gated(
    site: str, key: Tensor, centre: Tensor, push: Tensor, said: str, least: float = 0.5
) -> PatchEdit:
    """Return the rank-one edit that pushes vectors which lie from `centre` as `key` does.

    It begins at the share `least` of the way from the centre to the key.
    """
    return PatchEdit(
        kind="rank_one", target=site, said=f"{said}, over {least:g}",
        tensors={"key": key, "centre": centre, "delta": push,
                 "least": torch.tensor(least, dtype=torch.float64)},
    )  # fmt: skip


def _shifted(site: Site, push: Tensor) -> PatchEdit:
    return PatchEdit(
        kind="affine", target=site.name, said=f"{site.name} shifted for every query",
        tensors={"gain": torch.tensor(1.0, dtype=torch.float64), "bias": push},
    )  # fmt: skip


def of_budget(found: Diagnosis) -> list[Candidate]:
    """Return the least gains in the region's own patches that win it its share of the budget."""
    bench, goal = found.bench, found.failure.goal
    if goal.sign < 0:
        return []
    made = [_claimed(bench, goal, role) for role in ("demand", "relevance", "tokens")]
    return [(edit,) for edit in made if edit is not None]


def _claimed(bench: Bench, goal: Goal, role: str) -> PatchEdit | None:
    site, values = bench.writable(role), bench.map(bench.clean, role)
    if site is None or values is None:
        return None
    inside = bench.case.cells[None]
    for gain in GAINS:
        edit = bench.write_map(role, torch.where(inside, values * gain, values))
        if bool(goal.met(bench.tokens(bench.after([edit], bench.clean)))[0]):
            return raised(site.name, gain, bench.case.cells)
    return None


def raised(site: str, gain: float, cells: Tensor) -> PatchEdit:
    """Return the edit that raises a map in some patches, `[patch]` of bool, by a gain."""
    one = torch.tensor(gain, dtype=torch.float64)
    return PatchEdit(
        kind="affine", target=site,
        said=f"{site} times {gain:g} in {int(cells.sum())} patches",
        tensors={"gain": one, "bias": torch.zeros_like(one), "mask": cells.double()},
    )  # fmt: skip


def of_likeness(found: Diagnosis) -> list[Candidate]:
    """Return edits of maps where patches look like the region's: narrow, and wherever they lie.

    What is at fault stays so for others, so these are for cases whose wider repairs make some
    verdict worse.
    """
    bench, roles = found.bench, {part.role for part in found.parts}
    own = [role for role in MAPS if role in roles] if len(roles) == 1 else []
    late = ["query_relevance", "relevance", "demand"]
    if roles and roles <= {"relevance", "mix"}:
        late = late[1:]
    elif roles and roles <= {"demand", "multiplier", "tokens"}:
        late = late[2:]
    made = [
        _alike(bench, found.failure.goal, role, *near)
        for role in dict.fromkeys((*own, *late)) for near in nearest(bench, role)
    ]  # fmt: skip
    return [(edit,) for edit in made if edit is not None]


def _alike(
    bench: Bench, goal: Goal, role: str, site: Site, prototypes: Tensor, reach: Tensor
) -> PatchEdit | None:
    target = bench.writable(role)
    if target is None:
        return None
    vectors = patches_last(bench.clean[site.name], site, bench.grid).double()
    needed = _needed(bench, goal, role, gate(vectors, prototypes, reach))
    if needed is None:
        return None
    gain, bias = (torch.tensor(value, dtype=torch.float64) for value in needed)
    said = f"times {needed[0]:g}" if needed[1] == 0 else f"plus {needed[1]:.3g}"
    return PatchEdit(
        kind="alike", target=target.name, words={"inputs": site.name},
        tensors={"prototypes": prototypes, "reach": reach, "gain": gain, "bias": bias},
        said=f"{target.name} {said} where {site.name} is like the region's",
    )  # fmt: skip


def _needed(bench: Bench, goal: Goal, role: str, near: Tensor) -> tuple[float, float] | None:
    """Return the least gain, or bias, of a map that mends the case where `near`, `[1, patch]`."""
    values = bench.map(bench.clean, role)
    if bench.writable(role) is None or values is None:
        return None
    top = float(values.abs().max())
    gains = [gain**goal.sign for gain in GAINS]
    for gain, bias in [(g, 0.0) for g in gains] + [(1.0, goal.sign * s * top) for s in SHARES]:
        edit = bench.write_map(role, values + near * (values * (gain - 1) + bias))
        if bool(goal.met(bench.tokens(bench.after([edit], bench.clean)))[0]):
            return gain, bias
    return None
