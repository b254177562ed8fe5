"""What a scorer adds that is not its business: place, other factors, colour; fitted on donors."""

import numpy as np
from numpy.typing import NDArray

from arrcoc_verify.debug import reference as ref
from arrcoc_verify.debug.parts import SAID, Part, View, Where, Workshop, scorers
from arrcoc_verify.graph import Edit

Floats = NDArray[np.float64]

OWN = {"information": (0, 1, 6), "salience": (2, 3, 7, 8)}
"""Columns of `pictures.estimators` that a scorer may follow; all others are foreign to it."""


def _regressors(shop: Workshop, view: View, role: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return `[example, patch, column]` and which columns a scorer has no business with."""
    seen = shop.seen(view.run)
    inside = view.cells.numpy()[..., None].astype(float)
    others = [shop.read(view.run, one) for one in scorers(shop.bench.model) if one != role]
    maps = [one[..., None] for one in others if one is not None]
    found: Floats = np.concatenate([seen, inside, *maps], -1)
    foreign = np.ones(found.shape[-1], dtype=np.bool_)
    foreign[list(OWN.get(role, ()))] = False
    foreign[seen.shape[-1]] = role != "query_relevance"
    return found, foreign


def purified(shop: Workshop, role: str) -> Part | None:
    """A scorer without what place, the other factors and colour add to it, by a fit over donors.

    What place adds is a pattern that all pictures share, as strong as each picture has it.
    """
    if not shop.bench.donors.scenes:
        return None
    view = shop.donor_view()
    values = shop.read(view.run, role)
    if values is None:
        return None
    columns, foreign = _regressors(shop, view, role)
    inputs, outputs = columns - columns.mean(0), values - values.mean(0)  # place explains nothing
    fit = ref.Ridge.fit(inputs.reshape(-1, columns.shape[-1]), outputs.ravel())
    slope = fit.weight / fit.scale
    pattern = np.median(values - columns @ slope, axis=0)
    pattern -= pattern.min()

    def edits(view: View, where: Where) -> list[Edit]:
        actual = shop.read(view.run, role)
        if actual is None:
            return []
        columns = _regressors(shop, view, role)[0]
        added = columns @ np.where(foreign, slope, 0.0)
        share = _strength(actual - columns @ slope, pattern)
        added = added + share[:, None] * pattern
        least = np.quantile(added, 0.02, axis=1, keepdims=True)
        return shop.write_map(view, role, actual - np.maximum(added - least, 0), where)

    return Part(
        name=f"scorer:{role}/pure", code="scorer_fires_elsewhere", role=role, edits=edits,
        said=f"{SAID[role]} without what place and other factors add to it", strength=1,
    )  # fmt: skip


def _strength(values: Floats, pattern: Floats) -> Floats:
    """Return how often a pattern is in each of some maps, least squares, never below 0."""
    centred = pattern - pattern.mean()
    size = float(centred @ centred)
    return np.clip(values @ centred / size, 0, None) if size > 0 else np.zeros(len(values))
