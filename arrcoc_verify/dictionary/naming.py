"""What the patches on which a latent fires show, in words, by image-text similarity.

The towers are those that the package ships (docs/trained.md), whatever model is looked at, so that
naming works offline. Names are given only if the patches lie nearer to the first of them than as
many patches drawn at random from the same pictures lie to theirs: a latent that fires anywhere gets
none. They are hints for the eye, no claims: of tinted objects the right name is among three in
about 37 % (by chance in 6 %), `tests/unit/dictionary/test_naming.py`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.lab import Lab
from arrcoc_verify.reference.trained import assembly, graph, realising, tower
from arrcoc_verify.reference.trained.network import SHARPNESS
from arrcoc_verify.scenes import fixtures
from arrcoc_verify.scenes.colour import TINTS

NAMES = 3
"""How many are given."""
DRAWS = 200
"""Random sets of patches that a name is compared with."""
LEVEL = 0.95
"""Share of them that it must beat."""
BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What patches look like.

    Attributes:
        texts: the nearest names, nearest first.
        near: how near the first is, in spreads over patches.
        chance: the same of random patches, at `LEVEL`.
    """

    texts: tuple[str, ...]
    near: float
    chance: float


@functools.cache
def _towers() -> tuple[assembly.Reference, tuple[str, ...], Tensor]:
    """Return the shipped model, the names and where they lie, `[name, embed]`."""
    net = assembly.load()
    manifest = fixtures.manifest()
    labels = {one.label for one in manifest.cutouts}
    names = (*sorted(labels), *(f"{colour} thing" for colour in TINTS))
    tok = tower.tokenizer(assembly.text_folder())
    with torch.no_grad():
        return net, names, net.query(tower.pieces(tok, list(names)))


@torch.no_grad()
def nearness(images: Sequence[Image.Image]) -> Tensor:
    """Return how near each patch of a 16 x 16 grid is to each name, `[image, patch, name]`.

    The mean of two similarities, each in spreads over all patches given: of patch and name where
    they meet, and of ImageNet's classes in the patch, weighed by their nearness to the name.
    """
    net, _, texts = _towers()
    meant = torch.softmax(SHARPNESS * texts @ net.classes.T, dim=1).T
    found = []
    for at in range(0, len(images), BATCH):
        patches = net.patches(realising.glance(graph.pixels(list(images[at : at + BATCH]))))
        found.append(torch.stack([net.met(patches) @ texts.T, net.classifier(patches) @ meant]))
    both = torch.cat(found, 1)
    apart = both - both.mean((1, 2), keepdim=True)
    return (apart / apart.std((1, 2), keepdim=True)).mean(0)


def name_of(near: Tensor, fires: Tensor, *, seed: int = 0) -> Name | None:
    """Return the names nearest to patches, None if random patches have one as near.

    Args:
        near: `[image, patch, name]`, from `nearness`.
        fires: `[image, patch]`, weight of each patch; 0 where it does not count.
        seed: of the random patches.
    """
    count = int((fires > 0).sum())
    if not count:
        return None
    flat, weight = near.flatten(0, 1), fires.flatten().to(near)
    found = (weight / weight.sum()) @ flat
    best = found.topk(NAMES)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(DRAWS, len(flat), generator=generator).topk(count, dim=1).indices
    kept = weight[weight > 0] / weight.sum()
    chance = torch.stack([kept @ flat[rows] for rows in drawn]).amax(1).quantile(LEVEL)
    if float(best.values[0]) <= float(chance):
        return None
    texts = tuple(_towers()[1][at] for at in best.indices.tolist())
    return Name(texts=texts, near=float(best.values[0]), chance=float(chance))


def on_grid(lab: Lab, fires: Tensor) -> Tensor:
    """Return `[image, 256]`: the weight of each patch of the towers' grid.

    Args:
        lab: scenes with the model's own grid.
        fires: `[image, patch]` on that grid.
    """
    rows, columns = lab.grid
    plane = fires.reshape(-1, 1, rows, columns).double()
    size = (realising.GRID, realising.GRID)
    if (rows, columns) != size:
        plane = F.interpolate(plane, size, mode="area")
    return plane.flatten(1)
