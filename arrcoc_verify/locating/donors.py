"""Donors that tell pictures, queries and the scorer that joins them apart.

Without a sound twin, other inputs of the same model stand in: embeddings of other queries show
whether the query arrives; pictures with an exchange undone show whether pictures are read right.
"""

import fnmatch
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from arrcoc_verify.graph import run
from arrcoc_verify.lab import Lab, NotApplicable
from arrcoc_verify.metric import mean_over
from arrcoc_verify.scenes.scene import Scene
from arrcoc_verify.suite.balancing import BROAD_QUERY, ODD_QUERY
from arrcoc_verify.suite.knowing import PREAMBLE
from arrcoc_verify.suite.reading import POSTSCRIPT, spelled_otherwise

FEW = 8
DEAF = 1e-3
"""Distance of two embeddings, relative to their size, below which they are the same."""
FOUND = 1.0
"""Lead of the asked object, in spreads of its picture, at which it counts as found."""
UNSTABLE = 0.05
"""Distance that other words for the same thing may make, relative to that of another object."""


def _embedded(lab: Lab, queries: list[str]) -> Tensor | None:
    site = lab.model.role("query")
    if site is None:
        return None
    images = [scene.image for scene in lab.scenes[: len(queries)]]
    found = run(lab.model, images, queries, read=[site.name])[site.name]
    return found.double().flatten(1)


def _apart(one: Tensor, two: Tensor) -> Tensor:
    if one.shape != two.shape:  # token by token: compare the means
        one, two = one.mean(1, keepdim=True), two.mean(1, keepdim=True)
    distance: Tensor = (one - two).norm(dim=1)
    return distance


def query_suspected(lab: Lab, refuted: Collection[str]) -> str:
    """Return why the query's embedding is to blame, or "" when it arrives as it should.

    Args:
        lab: model and scenes.
        refuted: ids of refuted claims: only what they speak of is looked at.
    """
    few = lab.scenes[:FEW]
    own = _embedded(lab, [s.query for s in few])
    other = _embedded(lab, [s.other_query or BROAD_QUERY for s in few])
    if own is None or other is None:
        return ""
    size = own.norm(dim=1)
    between = _apart(own, other)
    if bool((between <= DEAF * size.clamp(min=1e-12)).any()):
        return "queries for different objects have the same embedding"
    for what, (claims, make) in SAME.items():
        if not refuted_any(claims, refuted):
            continue
        moved = _apart(own, _said(lab, [make(scene) for scene in few]))
        if float((moved / between.clamp(min=1e-12)).mean()) > UNSTABLE:
            return f"{what} moves the embedding as another object would"
    return _kinds_suspected(lab, refuted, own, other)


def _kinds_suspected(lab: Lab, refuted: Collection[str], own: Tensor, other: Tensor) -> str:
    few = lab.scenes[:FEW]
    if refuted_any(("balancing.*-for-*-queries",), refuted):
        broad, odd = (_said(lab, [query] * len(few)) for query in (BROAD_QUERY, ODD_QUERY))
        if float(_apart(broad, odd).max()) <= DEAF:
            return "asking for everything and asking for oddities have the same embedding"
    if refuted_any(("*-beats-absent",), refuted):
        absent = _said(lab, [s.absent_query or BROAD_QUERY for s in few])
        near = _cosine(own, absent) - _cosine(own, other) if absent.shape == own.shape else own[:0]
        if len(near) and float(near.median()) > 0.05:
            return "an absent object is embedded nearer to what is asked than another object is"
    if refuted_any(("knowing.query-hears-both-objects",), refuted):
        both = _said(lab, [
            f"find the {s.target.label} and the {s.distractor.label if s.distractor else ''}"
            for s in few
        ])  # fmt: skip
        if bool((torch.minimum(_apart(both, own), _apart(both, other)) <= DEAF).all()):
            return "a query for two objects is embedded as one for either"
    return ""


def refuted_any(patterns: Sequence[str], refuted: Collection[str]) -> bool:
    """Return whether any refuted claim matches any shell pattern."""
    return any(fnmatch.fnmatchcase(name, p) for name in refuted for p in patterns)


def _said(lab: Lab, queries: list[str]) -> Tensor:
    found = _embedded(lab, queries)
    if found is None:
        raise NotApplicable(f"{lab.model.name} declares no embedding of queries")
    return found


SAME: dict[str, tuple[tuple[str, ...], Callable[[Scene], str]]] = {
    "a paraphrase": (
        ("knowing.query-survives-paraphrase", "whole.paraphrase-is-stable"),
        lambda s: s.paraphrase or s.query,
    ),
    "words before the question": (
        ("knowing.query-survives-preamble",), lambda s: f"{PREAMBLE} {s.query}",
    ),
    "words after the question": (
        ("knowing.query-survives-postscript",), lambda s: f"{s.query} {POSTSCRIPT}",
    ),
    "another spelling": (("knowing.query-survives-spelling",), spelled_otherwise),
}  # fmt: skip
"""What should leave an embedding as it was -> claims that say so, and how it is asked."""


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    size = (one.norm(dim=1) * two.norm(dim=1)).clamp(min=1e-12)
    cosine: Tensor = (one * two).sum(1) / size
    return cosine


def channels(order: tuple[int, int, int]) -> Callable[[Image.Image], Image.Image]:
    """Return what puts the colour channels of a picture into another order."""
    return lambda p: Image.fromarray(np.ascontiguousarray(np.asarray(p)[..., list(order)]))


COLOURS = {
    "red and blue exchanged": channels((2, 1, 0)),
    "channels rotated": channels((1, 2, 0)),
    "channels rotated back": channels((2, 0, 1)),
}
PLACES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "upside down": ImageOps.flip,
    "mirrored": ImageOps.mirror,
    "axes exchanged": lambda p: p.transpose(Image.Transpose.TRANSPOSE),
    "turned right": lambda p: p.transpose(Image.Transpose.ROTATE_270),
    "turned left": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "halves exchanged": lambda p: Image.fromarray(np.roll(np.asarray(p), p.width // 2, 1)),
}


def picture_put_right(lab: Lab, *, places: bool) -> str:
    """Return which exchange, undone in the picture, lets the asked object be found; "" if none.

    Args:
        lab: model and scenes.
        places: try exchanges of place too, which every scorer would have to show.
    """
    if lab.model.role("query_relevance") is None:
        return ""
    few = lab.subset(range(min(FEW, len(lab))))
    asked = _lead(few, [s.image for s in few.scenes])
    tried = {**COLOURS, **(PLACES if places else {})}
    gains = {
        name: _lead(few, [change(s.image) for s in few.scenes]) for name, change in tried.items()
    }
    best = max(gains, key=lambda name: gains[name])
    return best if gains[best] >= FOUND and asked < 0.5 * gains[best] else ""


def _lead(lab: Lab, images: list[Image.Image]) -> float:
    """Return how far the asked object's relevance to the query leads, in spreads of its picture."""
    result = lab.run_on(images)
    scores = lab.map(result, "query_relevance")
    rest = ~lab.target
    least = max(1e-6 * float(scores.abs().max()), float(torch.finfo(torch.float32).tiny))
    size = scores.std(1, unbiased=False).clamp(min=least)
    return float(((mean_over(scores, lab.target) - mean_over(scores, rest)) / size).mean())
