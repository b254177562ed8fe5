"""Faults of knowing: scorers that are dead, inverted, leaky, blunt, or about something else.

Source: fault catalogues of attention and saliency models (sign flips, dead units, leaks between
heads, wrong axes, zero padding), one general operator each.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.model import SCORERS, Model
from arrcoc_verify.reference import analytic, texture

GRID = texture.GRID
SAID = {"information": "information", "salience": "salience", "query_relevance": "query relevance"}


def plane(values: Tensor) -> Tensor:
    """Return a map `[image, patch]` as `[image, row, column]`."""
    return values.reshape(-1, GRID, GRID)


def _ramp(across: bool) -> Tensor:
    line = torch.linspace(0, 1, GRID, dtype=torch.float64)
    return (line.expand(GRID, GRID) if across else line[:, None].expand(GRID, GRID)).flatten()


def _centre() -> Tensor:
    line = torch.linspace(-1, 1, GRID, dtype=torch.float64)
    return torch.exp(-2 * (line[:, None] ** 2 + line[None] ** 2)).flatten()


def _peaks_in_the_middle(values: Tensor) -> Tensor:
    """Rise up to one half and fall from there, half as steeply."""
    return torch.where(values < 0.5, values, 0.5 - 0.5 * (values - 0.5))


def _faint_matches(score: Tensor) -> Tensor:
    """Rise up to a faint match and fall from there, a tenth as steeply."""
    return torch.where(score < 0.02, score, 0.02 - 0.1 * (score - 0.02))


def _per_scorer(role: str) -> tuple[Fault, ...]:
    said = SAID[role]
    sound: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
        "information": (analytic.information_features, analytic.information),
        "salience": (analytic.salience_features, analytic.salience),
        "query_relevance": (analytic.query_features, analytic.query_relevance),
    }
    sources = ("descriptor", "query") if role == "query_relevance" else ("texture",)

    make, read = sound[role]

    def around(*inputs: Tensor) -> Tensor:
        return read(make(*inputs))

    return (
        Fault(
            name=f"score-flipped:{role}", stage="knowing", sentence=f"{said} has its sign flipped",
            make=lambda: rewired(after(role, lambda score: 1 - score)),
        ),
        Fault(
            name=f"score-dead:{role}", stage="knowing", sentence=f"{said} is the same everywhere",
            make=lambda: rewired(after(role, lambda score: torch.full_like(score, 0.3))),
        ),
        Fault(
            name=f"score-around-features:{role}", stage="knowing",
            sentence=f"{said} is computed around its feature vectors, which nothing reads",
            make=lambda: rewired(instead(role, around, *sources)),
        ),
    )  # fmt: skip


def _leak(into: str, source: str, amount: float) -> Fault:
    def make() -> Model:
        if source == "query_relevance":  # comes later in the graph: mix in what it is made from
            return rewired(
                after(
                    into,
                    lambda score, blocks, query: score
                    + amount * analytic.query_relevance(analytic.query_features(blocks, query)),
                    "descriptor", "query",
                )
            )  # fmt: skip
        return rewired(after(into, lambda score, other: score + amount * other, source))

    return Fault(
        name=f"score-leak:{source}-into-{into}", stage="knowing",
        sentence=f"{SAID[source]} leaks into {SAID[into]}", make=make,
    )  # fmt: skip


def _place(into: str, where: str, prior: Tensor, amount: float) -> Fault:
    return Fault(
        name=f"place-preferred:{into}-{where}",
        stage="knowing",
        sentence=f"{SAID[into]} is higher towards the {where} of the picture, whatever is there",
        make=lambda: rewired(after(into, lambda score: score + amount * prior)),
    )


def _spread_of_luminance(maps: Tensor) -> Tensor:
    """Contrast energy: standard deviation of luminance, 0..1."""
    mean, square = texture.cells(maps[:, :1]), texture.cells(maps[:, :1] ** 2)
    return ((square - mean**2).clamp(min=0).sqrt() * 2).squeeze(2)


def _only_brighter(maps: Tensor) -> Tensor:
    """Keep the rectified differences of the brighter side only."""
    luminance = plane(texture.cells(maps[:, :1]).squeeze(2))[:, None]
    around = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(luminance, (4, 4, 4, 4), mode="replicate"), 9, stride=1
    )
    distance = 2 * (luminance - around).clamp(min=0).flatten(1)
    return distance / (distance + analytic.HALF_SALIENCE)


def _from_mid_grey(maps: Tensor) -> Tensor:
    distance = 2 * (texture.cells(maps[:, :1]).squeeze(2) - 0.5).abs()
    return distance / (distance + analytic.HALF_SALIENCE)


def _colourful(score: Tensor, maps: Tensor) -> Tensor:
    colour: Tensor = texture.cells(maps[:, 1:3]).norm(dim=2)
    return score + 40 * colour


def _bordered(score: Tensor) -> Tensor:
    """What zero padding does: a frame of patches stands out from the black around it."""
    frame = torch.ones(GRID, GRID, dtype=score.dtype)
    frame[2:-2, 2:-2] = 0
    return torch.maximum(score, 0.6 * frame.flatten())


def _objects_when_absent(score: Tensor, blocks: Tensor) -> Tensor:
    """Where nothing matches, whatever is strongly coloured is handed out."""
    nothing = score.amax(1, keepdim=True) < 0.1
    coloured = blocks[..., 6:].square().sum(3).mean(2)
    return torch.where(nothing, coloured.sqrt(), score)


def _any_object(features: Tensor, blocks: Tensor) -> Tensor:
    asked = analytic.query_relevance(features)
    return 0.02 * asked + 0.98 * blocks[..., 6:].square().sum(3).mean(2)


def _grey_matches(score: Tensor, blocks: Tensor) -> Tensor:
    return score + 2 * blocks[..., 0].square().mean(2)


_DISTURBED = (
    _leak("information", "salience", 1.0),
    _leak("information", "query_relevance", 0.3),
    _leak("salience", "information", 1.0),
    _leak("salience", "query_relevance", 0.3),
    _leak("query_relevance", "information", 1.0),
    _leak("query_relevance", "salience", 1.0),
    _place("information", "bottom", _ramp(across=False), 0.6),
    _place("salience", "right", _ramp(across=True), 0.6),
    _place("query_relevance", "centre", _centre(), 0.6),
)

FAULTS = (
    *(fault for role in SCORERS for fault in _per_scorer(role)),
    *_DISTURBED,
    Fault(
        name="information-is-contrast", stage="knowing",
        sentence="information is the spread of luminance and not its entropy",
        make=lambda: rewired(instead("information", _spread_of_luminance, "texture")),
    ),
    Fault(
        name="information-prefers-the-middle", stage="knowing",
        sentence="information rises up to medium entropy and falls again",
        make=lambda: rewired(after("information", _peaks_in_the_middle)),
    ),
    Fault(
        name="salience-is-colourfulness", stage="knowing",
        sentence="how colourful a patch is drowns its contrast to the surround",
        make=lambda: rewired(after("salience", _colourful, "texture")),
    ),
    Fault(
        name="salience-one-sided", stage="knowing",
        sentence="only what is brighter than its surround stands out",
        make=lambda: rewired(instead("salience", _only_brighter, "texture")),
    ),
    Fault(
        name="salience-from-mid-grey", stage="knowing",
        sentence="salience is the distance from mid grey and not from the surround",
        make=lambda: rewired(instead("salience", _from_mid_grey, "texture")),
    ),
    Fault(
        name="salience-drowns-the-rest", stage="knowing",
        sentence="what stands out is amplified until it drowns what is asked for",
        make=lambda: rewired(
            after("salience", lambda score: score + 10 * (score - 0.4).clamp(min=0))
        ),
    ),
    Fault(
        name="salience-framed", stage="knowing",
        sentence="black padding makes the border of every picture stand out",
        make=lambda: rewired(after("salience", _bordered)),
    ),
    Fault(
        name="absent-falls-back-to-objects", stage="knowing",
        sentence="when what is asked for is not there, whatever is coloured counts as asked for",
        make=lambda: rewired(after("query_relevance", _objects_when_absent, "descriptor")),
    ),
    Fault(
        name="query-relevance-transposed", stage="knowing",
        sentence="rows and columns of query relevance are exchanged",
        make=lambda: rewired(
            after("query_relevance", lambda score: plane(score).mT.flatten(1))
        ),
    ),
    Fault(
        name="query-relevance-even", stage="knowing",
        sentence="query relevance is its mean over the picture, in every patch",
        make=lambda: rewired(
            after(
                "query_relevance",
                lambda score: score.mean(1, keepdim=True).expand_as(score).clone(),
            )
        ),
    ),
    Fault(
        name="query-relevance-prefers-the-faint", stage="knowing",
        sentence="query relevance rises up to a faint match and falls again",
        make=lambda: rewired(after("query_relevance", _faint_matches)),
    ),
    Fault(
        name="query-relevance-two-level", stage="knowing",
        sentence="query relevance is 1 above its mean over the picture and 0 below",
        make=lambda: rewired(
            after(
                "query_relevance", lambda score: (score > score.mean(1, keepdim=True)).double()
            )
        ),
    ),
    Fault(
        name="query-relevance-of-grey", stage="knowing",
        sentence="whatever has no colour matches every query",
        make=lambda: rewired(after("query_relevance", _grey_matches, "descriptor")),
    ),
    Fault(
        name="query-relevance-is-objectness", stage="knowing",
        sentence="query relevance is mostly how much of an object a patch is",
        make=lambda: rewired(
            instead("query_relevance", _any_object, "query_features", "descriptor")
        ),
    ),
)  # fmt: skip
