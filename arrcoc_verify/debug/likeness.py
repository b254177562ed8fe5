"""Which patches look like the region's, by the vectors that the model has of them.

An edit that acts there only mends the case and its likes, and leaves all else as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from arrcoc_verify.debug import derive
from arrcoc_verify.debug.bench import Bench, flat_map, native
from arrcoc_verify.model import SCORERS, Model, Site, patches_last
from arrcoc_verify.verdict import STAGES

PLACES = {"image", "patch", "row", "column"}

NEAR = 0.01
"""Share of other patches, in the case and in donors, that an edit reaches at all."""


def around_scores(model: Model, reads: str, writes: str) -> bool:
    """Return whether an edit of one site by another leads around the scores: from before to behind.

    Args:
        model: whose sites they are.
        reads: name of the site whose values decide.
        writes: name of the site that is written.
    """
    source, target = model.site(reads), model.site(writes)
    scores = STAGES.index("balancing")
    before = STAGES.index(source.stage) < scores and source.role not in SCORERS
    return before and STAGES.index(target.stage) >= scores and target.per_patch


def nearest(bench: Bench, role: str) -> list[tuple[Site, Tensor, Tensor]]:
    """Return the sites whose vectors tell the region best, with these vectors and how far they go.

    Args:
        bench: the case.
        role: of the map that is to be edited.

    Returns:
        Site, `[patch, channel]`, and the distance within which `NEAR` of the others lie: of the
        best site from which an edit does not lead around the scores, then of the best of all,
        where that is another.
    """
    target = bench.model.role(role)
    if target is None:
        return []
    found: dict[str, tuple[float, tuple[Site, Tensor, Tensor]]] = {}
    for site in _before(bench.model, target):
        case = patches_last(bench.clean[site.name], site, bench.grid).double()[0]
        inside = bench.case.cells
        others = [case[~inside]]
        if bench.donors.scenes:
            there = patches_last(bench.donors.run[site.name], site, bench.grid).double()
            others.append(there.flatten(0, 1))
        apart = _distance(torch.cat(others), case[inside])
        scale = float(apart.median())
        reach = apart.quantile(NEAR)
        if float(reach) > 0 and scale > 0:
            found[site.name] = (float(reach) / scale, (site, case[inside], reach))
    within = [name for name in found if not around_scores(bench.model, name, target.name)]
    best = [max(names, key=lambda name: found[name][0]) for names in (within, found) if names]
    return [found[name][1] for name in dict.fromkeys(best)]


def _before(model: Model, target: Site) -> list[Site]:
    """Return the sites with a vector a patch that an edit of a site can read."""
    order = [step.name for step in model.steps]
    earlier = order[: order.index(target.at.step)]
    return [
        site for site in model.sites.values()
        if site.at.step in earlier and derive.readable(site) and site.per_patch
        and set(site.axes) - PLACES == {"channel"}
    ]  # fmt: skip


def gate(vectors: Tensor, prototypes: Tensor, reach: Tensor) -> Tensor:
    """Return how far an edit acts on each vector: 1 within half the reach, 0 beyond it.

    Args:
        vectors: `[..., channel]`.
        prototypes: `[patch, channel]`.
        reach: distance from the nearest prototype.
    """
    return (2 - 2 * _distance(vectors, prototypes) / reach).clamp(0, 1)


def _distance(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """Return how far each vector lies from the nearest prototype, `[..., channel]` to `[...]`."""
    flat = torch.cdist(vectors.flatten(0, -2), prototypes).amin(1)
    return flat.reshape(vectors.shape[:-1])


def writer(
    model: Model, target: Site, words: Mapping[str, str], t: Mapping[str, Tensor]
) -> Callable[..., Tensor]:
    """Return the function that edits a map from the result of the step that has the vectors."""
    names = [words["inputs"]]

    def write(old: Tensor, *values: Any) -> Tensor:
        vectors = derive.columns(model, "vector", names, values)
        near = gate(vectors, t["prototypes"], t["reach"])
        flat = flat_map(old, target, model.declaration.grid)
        made = flat + near * (flat * (t["gain"] - 1) + t["bias"])
        return native(made, target, old, model.declaration.grid)

    return write
