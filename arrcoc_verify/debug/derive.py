"""Edits that derive a map anew from what lies before it: a readout, a mixture, a curve.

Where a part returns nothing of what it should (a score that is dead in one corner), no gain brings
it back; what it reads still tells. The derived value is a monotone curve of one number a patch:
a linear readout of the scorer's vectors, the share of the weighted scores, or the map before it.
The fits leave out the patches that fit worst, which is where the fault lies.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc_verify.attach import pick
from arrcoc_verify.debug import reference as ref
from arrcoc_verify.debug.bench import native
from arrcoc_verify.debug.parts import channels, scorers
from arrcoc_verify.model import SCORERS, Model, Output, Site, patches_last

Floats = NDArray[np.float64]

TRIMMED = 0.2
"""Share of patches, those that fit worst, that the second fit leaves out."""

KNOTS = 17


def inputs_of(model: Model, role: str) -> tuple[str, tuple[str, ...]]:
    """Return the form and the sites that a role's map can be derived from; no sites if it cannot.

    Returns:
        `vector`, `share` or `map`, and the names of sites in the order in which they are read.
    """
    vector = model.role(f"{role}_features")
    if role in SCORERS and readable(vector) and vector is not None and "channel" in vector.axes:
        return "vector", (vector.name,)
    if role == "relevance":
        maps = [model.role(one) for one in scorers(model)]
        beside = [model.role(one) for one in ("weights", "normaliser")]
        found = [*maps, *(site for site in beside if readable(site))]
        if maps and all(readable(site) for site in found):
            return "share", tuple(site.name for site in found if site is not None)
    before = {"demand": "relevance", "tokens": "relevance"}.get(role)
    site = model.role(before) if before else None
    if site is not None and readable(site):
        return "map", (site.name,)
    return "", ()


def forms_of(model: Model, role: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return every form and its sites, as `inputs_of` does; tokens also from what pays for them.

    Tokens that are read from `product`, demand times the multiplier, or from `level`, the level of
    detail before it is whole, still follow the multiplier.
    """
    pays = [model.role(one) for one in ("demand", "multiplier")]
    found = [inputs_of(model, role)]
    if role == "tokens" and all(readable(site) for site in pays):
        names = tuple(site.name for site in pays if site is not None)
        if model.site(names[-1]).axes == ("image",):
            found.insert(0, ("product", names))
    lod = model.role("lod")
    if role == "tokens" and lod is not None and readable(lod):
        found.insert(0, ("level", (lod.name,)))
    return [(form, names) for form, names in found if names]


def readable(site: Site | None) -> bool:
    """Return whether another step can read the site: it is the result of a step."""
    return site is not None and isinstance(site.at, Output)


def sources(model: Model, names: Sequence[str]) -> tuple[str, ...]:
    """Return the steps whose results the sites are read from."""
    return tuple(model.site(name).at.step for name in names)


def columns(model: Model, form: str, names: Sequence[str], values: Sequence[Any]) -> Tensor:
    """Return `[image, patch, column]` of what is read, from the results of its steps."""
    sites = [model.site(name) for name in names]
    read = [pick(v, s.at.key, s) for v, s in zip(values, sites, strict=True)]  # type: ignore[union-attr]
    return read_columns(model, form, names, read)


def read_columns(model: Model, form: str, names: Sequence[str], read: Sequence[Tensor]) -> Tensor:
    """Return `[image, patch, column]` from the sites' own activations."""
    grid = model.declaration.grid
    sites = [model.site(name) for name in names]
    maps = [
        patches_last(value, site, grid).double()
        for value, site in zip(read, sites, strict=True)
        if site.role not in ("weights", "normaliser", "multiplier")
    ]  # fmt: skip
    if form == "vector":
        return maps[0]
    flat = torch.stack([one[..., 0] if one.ndim == 3 else one for one in maps], -1)
    if form in ("map", "level"):
        return flat
    if form == "product":
        return flat * read[-1].double().reshape(len(flat), -1, 1)
    weights = _weights(model, sites, read, flat)
    total = (flat * weights).sum(-1, keepdim=True)
    below = total + _level(sites, read, total)
    return total / torch.where(below.abs() > 1e-12, below, 1e-12)


def _level(sites: Sequence[Site], read: Sequence[Tensor], total: Tensor) -> Tensor:
    """Return what the model divides by, `[image, 1, 1]`: its own, else the mean of the picture.

    With its own, an edit that holds it still holds here, too.
    """
    for site, value in zip(sites, read, strict=True):
        if site.role == "normaliser" and value.numel() == len(total):
            return value.double().reshape(-1, 1, 1)
    return total.mean(1, keepdim=True)


def _weights(model: Model, sites: Sequence[Site], read: Sequence[Tensor], flat: Tensor) -> Tensor:
    for site, value in zip(sites, read, strict=True):
        if site.role == "weights" and "channel" in site.axes:
            moved = value.double().movedim(site.axes.index("channel"), -1)
            moved = moved.reshape(moved.shape[0], -1, moved.shape[-1]).mean(1)
            known = channels(model, "weights", SCORERS, moved.shape[1])
            if known is not None:
                return moved[:, None, [known[role] for role in scorers(model)]]
    return torch.ones_like(flat[:1, :1])


def fitted(form: str, given: Tensor, wanted: Tensor, cells: Tensor) -> dict[str, Tensor] | None:
    """Return weight, bias and knots of the curve that makes `wanted` out of `given`.

    Args:
        form: of the columns.
        given: `[example, patch, column]`.
        wanted: `[example, patch]`.
        cells: `[example, patch]`, the regions: of them as large a part is left out as of the rest,
            since what is asked for is rare, and all of it would be left out else.
    """
    x, y = given.flatten(0, 1).numpy(), wanted.flatten().numpy()
    asked = cells.flatten().numpy()
    keep = np.ones(len(y), dtype=bool)
    found: tuple[Floats, float, ref.Rising] | None = None
    for _ in range(3):
        weight, bias = _line(form, x[keep], y[keep])
        index = x @ weight + bias
        curve = ref.Rising.fit(index[keep], y[keep])
        found = (weight, bias, curve)
        miss = np.abs(curve(index) - y)
        keep = np.zeros(len(y), dtype=bool)
        for group in (asked, ~asked):
            if group.any():
                keep |= group & (miss <= np.quantile(miss[group], 1 - TRIMMED))
    if found is None:
        return None
    weight, bias, curve = found
    knots = np.unique(np.quantile(x[keep] @ weight + bias, np.linspace(0, 1, KNOTS) ** 0.5))
    if len(knots) < 2:
        return None
    made = {"weight": weight, "bias": np.array(bias), "x": knots, "y": curve(knots)}
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in made.items()}


def plain(form: str, lod: tuple[float, float] | None = None) -> dict[str, Tensor] | None:
    """Return the numbers of a form that has a plain meaning; None for others.

    Args:
        form: `share`, the weighted share as it is; `product`, the way from the fewest tokens to the
            most that demand times the multiplier goes; or `level`, the level of detail as it is.
        lod: fewest and most tokens, which the last two need.
    """
    one = (0.0, 1.0)
    ends = {"share": (one, one), "product": (one, lod), "level": (lod, lod)}
    low, high = ends.get(form, (None, None))
    if low is None or high is None:
        return None
    x, y = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    return {
        "weight": torch.ones(1, dtype=torch.float64), "bias": torch.tensor(0.0).double(),
        "x": x, "y": y,
    }  # fmt: skip


def _line(form: str, x: Floats, y: Floats) -> tuple[Floats, float]:
    if form != "vector":
        return np.ones(x.shape[1]), 0.0
    fit = ref.Ridge.fit(x, y)
    weight = fit.weight / fit.scale
    return weight, float(fit.level - fit.centre @ weight)


def writer(
    model: Model, target: Site, words: Mapping[str, str], t: Mapping[str, Tensor]
) -> Callable[..., Tensor]:
    """Return the function that derives a map from the results of the steps it reads."""
    names = words["inputs"].split("|")

    def write(old: Tensor, *values: Any) -> Tensor:
        found = columns(model, words["form"], names, values)
        index = found @ t["weight"] + t["bias"]
        inside = index.clamp(float(t["x"][0]), float(t["x"][-1]))
        place = torch.searchsorted(t["x"], inside.contiguous()).clamp(1, len(t["x"]) - 1)
        left, right = t["x"][place - 1], t["x"][place]
        share = (inside - left) / (right - left)
        made = t["y"][place - 1] + share * (t["y"][place] - t["y"][place - 1])
        return native(made, target, old, model.declaration.grid)

    return write
