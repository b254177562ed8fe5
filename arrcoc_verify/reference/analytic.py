"""The analytic reference model: every stage in closed form, every causal effect derivable by hand.

Knowing. Each patch is a cell of 16 x 16 pixels. *Information* is the entropy of its luminance
histogram; *salience* is how far its mean colour lies from its surround; *query relevance* is the
cosine between the roots of its colour categories and those of the object that the query names.
Balancing. Three tensions (compress, exploit, focus) come from the query and the image; each favours
one scorer through a softmax. The weighted mix is divided by itself plus its mean over the image.
Attending. A power law turns relevance into demand, and one multiplier an image spends the budget.

Each stage hands its successor a vector a patch (`Planted`), and the successor reads that vector and
nothing else. docs/analytic.md derives the total, local and unrepaired effect of each scorer.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from arrcoc_verify import provenance
from arrcoc_verify.model import SCORERS, TENSIONS, Declaration, Model, Output, Site, Step
from arrcoc_verify.reference import allocator, lexicon, texture
from arrcoc_verify.reference.planted import Planted, hats

LOW, HIGH = 64.0, 400.0
TOTAL = 128.0 * texture.GRID**2
"""Budget of a picture in tokens: 128 a patch on average."""
BINS = 64
"""Bins of the luminance histogram."""
HALF_SALIENCE = 0.25
"""Colour distance at which salience is one half."""
QUERY_POWER = 2.0
"""Exponent that sharpens the cosine."""
SHARPNESS = 1.2
"""How strongly a tension moves the logit of the scorer it favours."""
GAMMA = 4.0
"""Exponent of the power law from relevance to demand."""
LEAST_DEMAND = 1e-6
"""Demand without any relevance, so that the whole budget can be spent on every picture."""
FEATURES = {
    "information": BINS,
    "salience": 54,
    "query_relevance": 160,
    "balancing": 66,
    "attending": 64,
}
"""Planted features of each vector, all more than its 48 dimensions."""

PLANTED = {name: Planted.make(count, seed) for seed, (name, count) in enumerate(FEATURES.items())}

_SURROUND = ((-4, 0), (4, 0), (0, -4), (0, 4), (-3, -3), (-3, 3), (3, -3), (3, 3))
"""Offsets in cells of the eight places a cell is compared with."""
_CHANNEL_GAIN = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
"""Chroma differs less than luminance in photographs, so it counts twice."""


def information_features(maps: Float[Tensor, "image 13 height width"]) -> Tensor:
    """Return `[image, patch, 48]`: one code a luminance bin, `-p log p / log 64`.

    Histogram entries are shared linearly between the two nearest bins, so that the codes move
    continuously with the pixels.
    """
    images = maps.shape[0]
    grid, cell = texture.GRID, texture.CELL
    luminance = maps[:, 0].double().reshape(images, grid, cell, grid, cell)
    flat = luminance.permute(0, 1, 3, 2, 4).reshape(images, grid * grid, cell * cell)
    place = flat.clamp(0, 1) * (BINS - 1)
    left = place.floor().long().clamp(max=BINS - 2)
    part = place - left
    histogram = torch.zeros(images, grid * grid, BINS, dtype=torch.float64)
    histogram.scatter_add_(2, left, 1 - part).scatter_add_(2, left + 1, part)
    share = histogram / (cell * cell)
    codes = -torch.special.xlogy(share, share) / math.log(BINS)
    return PLANTED["information"].embed(codes)


def information(features: Tensor) -> Float[Tensor, "image patch"]:
    """Return the entropy of each patch's luminance, 0..1 of the 64-bin maximum."""
    return PLANTED["information"].read(features)


def salience_features(maps: Float[Tensor, "image 13 height width"]) -> Tensor:
    """Return `[image, patch, 48]`: rectified colour differences to eight places and to the mean."""
    colour = texture.cells(maps[:, :3]) * _CHANNEL_GAIN
    plane = colour.transpose(1, 2).unflatten(2, (texture.GRID, texture.GRID))
    padded = torch.nn.functional.pad(plane, (4, 4, 4, 4), mode="replicate")
    grid = texture.GRID
    around = [padded[:, :, 4 + r : 4 + r + grid, 4 + c : 4 + c + grid] for r, c in _SURROUND]
    around.append(plane.mean((2, 3), keepdim=True).expand_as(plane))
    difference = torch.stack([plane - other for other in around], 1) / len(around)
    codes = torch.cat([difference.clamp(min=0), (-difference).clamp(min=0)], 1)
    return PLANTED["salience"].embed(codes.flatten(1, 2).flatten(2).transpose(1, 2))


def salience(features: Tensor) -> Float[Tensor, "image patch"]:
    """Return how much each patch stands out, 0..1, one half at the set colour distance."""
    distance = PLANTED["salience"].read(features).clamp(min=0)
    return distance / (distance + HALF_SALIENCE)


def embed_queries(queries: list[str]) -> Float[Tensor, "image 12"]:
    """Return what each query says: ten category roots, then broad and odd."""
    return torch.stack([lexicon.meaning(query) for query in queries])


def descriptor(maps: Float[Tensor, "image 13 height width"]) -> Tensor:
    """Return `[image, patch, block, category]`: roots of the shares in 16 blocks a cell."""
    return texture.cells(maps[:, 3:], parts=4).clamp(min=0).sqrt()


def query_features(blocks: Tensor, query: Float[Tensor, "image 12"]) -> Tensor:
    """Return `[image, patch, 48]`: one code a block and category, their product over 16 blocks."""
    codes = blocks * query[:, None, None, :10] / blocks.shape[2]
    return PLANTED["query_relevance"].embed(codes.flatten(2))


def query_relevance(features: Tensor) -> Float[Tensor, "image patch"]:
    """Return the mean cosine of each patch with the query, squared, 0..1."""
    return PLANTED["query_relevance"].read(features).clamp(min=0) ** QUERY_POWER


def context(
    query: Float[Tensor, "image 12"], info: Tensor, stands_out: Tensor, related: Tensor
) -> Float[Tensor, "image 6"]:
    """Return broad, odd, specific (0 or 1), and the means of the three score maps."""
    specific = (query[:, :10].norm(dim=1, keepdim=True) > 0).double()
    means = torch.stack([info.mean(1), stands_out.mean(1), related.mean(1)], 1)
    return torch.cat([query[:, 10:], specific, means], 1)


def tensions(seen: Float[Tensor, "image 6"]) -> Float[Tensor, "image 3"]:
    """Return compress, exploit and focus, 0..1 each."""
    broad, odd, specific, clutter, contrast, match = seen.unbind(1)
    compress = -0.5 + 3 * broad - 0.5 * specific + 4 * (clutter - 0.5)
    exploit = 1 - 3 * odd + 4 * (contrast - 0.35)
    focus = -1 + 3 * specific - 2 * broad - 4 * (match - 0.1)
    return torch.sigmoid(torch.stack([compress, exploit, focus], 1))


def weights(tension: Float[Tensor, "image 3"]) -> Float[Tensor, "image 3"]:
    """Return the weights of information, salience and query relevance; they sum to 1."""
    return torch.softmax(2 * SHARPNESS * (tension - 0.5), dim=1)


def balancing_features(
    weight: Float[Tensor, "image 3"], info: Tensor, stands_out: Tensor, related: Tensor
) -> Tensor:
    """Return `[image, patch, 48]`: each scorer's contribution, spread over 22 hats."""
    parts = torch.stack([info, stands_out, related], 2) * weight[:, None, :]
    return PLANTED["balancing"].embed(hats(parts, 22, 1.0).flatten(2))


def mix(features: Tensor) -> Float[Tensor, "image patch"]:
    """Return the weighted sum of the three scores."""
    return PLANTED["balancing"].read(features).clamp(min=0)


def normaliser(mixed: Float[Tensor, "image patch"]) -> Float[Tensor, " image"]:
    """Return the mean of the mix over the image."""
    return mixed.mean(1)


def relevance(mixed: Tensor, level: Float[Tensor, " image"]) -> Float[Tensor, "image patch"]:
    """Return the mix divided by itself plus the image's level, 0..1; one half at the level."""
    below = (mixed + level[:, None]).clamp(min=torch.finfo(mixed.dtype).tiny)
    return mixed / below


def report(tension: Tensor, weight: Tensor) -> Mapping[str, Tensor]:
    """Return what the model says of itself; nothing reads it."""
    return {"tensions": tension.clone(), "weights": weight.clone()}


def attending_features(related: Float[Tensor, "image patch"]) -> Tensor:
    """Return `[image, patch, 48]`: relevance spread over 64 hats."""
    return PLANTED["attending"].embed(hats(related, 64, 1.0))


def demand(features: Tensor) -> Float[Tensor, "image patch"]:
    """Return relevance to the fourth power, plus a trace."""
    return PLANTED["attending"].read(features).clamp(min=0) ** GAMMA + LEAST_DEMAND


def multiplier(wanted: Float[Tensor, "image patch"]) -> Float[Tensor, " image"]:
    """Return the number that spends the whole budget."""
    return allocator.solve_multiplier(wanted, TOTAL, LOW, HIGH)


def level_of_detail(wanted: Tensor, spend: Tensor) -> Float[Tensor, "image patch"]:
    """Return continuous tokens, 64..400."""
    return allocator.level_of_detail(wanted, spend, LOW, HIGH)


STEPS = (
    Step(name="pixels", run=texture.pixels, inputs=("images",), transient=True, pure=True),
    Step(name="texture", run=texture.texture, inputs=("pixels",), transient=True, pure=True),
    Step(name="query", run=embed_queries, inputs=("queries",), pure=True),
    Step(name="information_features", run=information_features, inputs=("texture",), pure=True),
    Step(name="information", run=information, inputs=("information_features",), pure=True),
    Step(name="salience_features", run=salience_features, inputs=("texture",), pure=True),
    Step(name="salience", run=salience, inputs=("salience_features",), pure=True),
    Step(name="descriptor", run=descriptor, inputs=("texture",), pure=True),
    Step(name="query_features", run=query_features, inputs=("descriptor", "query"), pure=True),
    Step(name="query_relevance", run=query_relevance, inputs=("query_features",), pure=True),
    Step(
        name="context", run=context,
        inputs=("query", "information", "salience", "query_relevance"), pure=True,
    ),
    Step(name="tensions", run=tensions, inputs=("context",), pure=True),
    Step(name="weights", run=weights, inputs=("tensions",), pure=True),
    Step(name="report", run=report, inputs=("tensions", "weights"), pure=True),
    Step(
        name="balancing_features", run=balancing_features,
        inputs=("weights", "information", "salience", "query_relevance"), pure=True,
    ),
    Step(name="mix", run=mix, inputs=("balancing_features",), pure=True),
    Step(name="normaliser", run=normaliser, inputs=("mix",), pure=True),
    Step(name="relevance", run=relevance, inputs=("mix", "normaliser"), pure=True),
    Step(name="attending_features", run=attending_features, inputs=("relevance",), pure=True),
    Step(name="demand", run=demand, inputs=("attending_features",), pure=True),
    Step(name="multiplier", run=multiplier, inputs=("demand",), pure=True),
    Step(name="lod", run=level_of_detail, inputs=("demand", "multiplier"), pure=True),
    Step(name="tokens", run=allocator.whole_tokens, inputs=("lod",), pure=True),
)  # fmt: skip

_PATCH, _VECTOR, _THREE = ("image", "patch"), ("image", "patch", "channel"), ("image", "channel")
_SITES = (
    ("encoder.texture", ("image", "channel", "height", "width"), "texture", None, None),
    ("query.embedding", ("image", "channel"), "query", None, "query"),
    ("knowing.information_features", _VECTOR, "information_features", None, "information_features"),
    ("knowing.information", _PATCH, "information", None, "information"),
    ("knowing.salience_features", _VECTOR, "salience_features", None, "salience_features"),
    ("knowing.salience", _PATCH, "salience", None, "salience"),
    ("knowing.query_features", _VECTOR, "query_features", None, "query_relevance_features"),
    ("knowing.query_relevance", _PATCH, "query_relevance", None, "query_relevance"),
    ("balancing.context", ("image", "channel"), "context", None, None),
    ("balancing.tensions", _THREE, "tensions", None, "tensions"),
    ("balancing.weights", _THREE, "weights", None, "weights"),
    ("balancing.reported_tensions", _THREE, "report", "tensions", "reported_tensions"),
    ("balancing.reported_weights", _THREE, "report", "weights", "reported_weights"),
    ("balancing.features", _VECTOR, "balancing_features", None, "balancing_features"),
    ("balancing.mix", _PATCH, "mix", None, "mix"),
    ("balancing.normaliser", ("image",), "normaliser", None, "normaliser"),
    ("balancing.relevance", _PATCH, "relevance", None, "relevance"),
    ("attending.features", _VECTOR, "attending_features", None, "attending_features"),
    ("attending.demand", _PATCH, "demand", None, "demand"),
    ("attending.multiplier", ("image",), "multiplier", None, "multiplier"),
    ("attending.lod", _PATCH, "lod", None, "lod"),
    ("attending.tokens", _PATCH, "tokens", None, "tokens"),
)  # fmt: skip
_CHANNELS = {
    "encoder.texture": texture.CHANNELS,
    "balancing.tensions": TENSIONS,
    "balancing.reported_tensions": TENSIONS,
    "balancing.weights": SCORERS,
    "balancing.reported_weights": SCORERS,
}


def model() -> Model:
    """Return the analytic reference model; it satisfies every claim of the default profile."""
    sites = {
        name: Site(
            name=name, stage=name.split(".")[0], axes=axes, role=role,
            at=Output(step=step, key=key), channels=_CHANNELS.get(name, ()), writable=key is None,
        )
        for name, axes, step, key, role in _SITES
    }  # fmt: skip
    return Model(
        name="reference:analytic",
        steps=STEPS,
        sites=sites,
        declaration=Declaration(
            grid=(texture.GRID, texture.GRID),
            image_size=(texture.SIZE, texture.SIZE),
            lod=(LOW, HIGH),
            conserved_total=True,
            total=TOTAL,
            batch_size=8,
        ),
        adapter="reference",
        digest=provenance.folder_digest(Path(__file__).parent),
        spec="reference:analytic",
    )
