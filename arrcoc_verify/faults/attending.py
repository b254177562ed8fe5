"""Faults of attending: budgets that leak, clip, jump, or listen to something else than relevance.

Source: fault catalogues of allocators (clamps off by one, truncation, unfair ties, forgotten
remainders, popping) and of budgeted selection.
"""

from dataclasses import replace

import torch
from torch import Tensor

from arrcoc_verify.faults.fault import Fault, after, instead, rewired
from arrcoc_verify.faults.knowing import plane
from arrcoc_verify.model import Model, Output, Site, Step
from arrcoc_verify.reference import allocator, analytic

LOW, HIGH, TOTAL = analytic.LOW, analytic.HIGH, analytic.TOTAL


def _bounds(low: float, high: float) -> Model:
    """Return a model that spends the same total between other ends."""
    return rewired(
        instead("multiplier", lambda wanted: allocator.solve_multiplier(wanted, TOTAL, low, high)),
        instead("lod", lambda wanted, spend: allocator.level_of_detail(wanted, spend, low, high)),
    )


def _spends_too_much(wanted: Tensor) -> Tensor:
    """A fixed multiplier: what a picture costs depends on the picture."""
    return torch.full((len(wanted),), 2.0, dtype=wanted.dtype)


def _middle_inverted(wanted: Tensor) -> Tensor:
    """Demand falls with relevance in the middle of its range."""
    low, high = wanted.quantile(0.5, 1, keepdim=True), wanted.quantile(0.8, 1, keepdim=True)
    inside = (wanted > low) & (wanted < high)
    return torch.where(inside, low + high - wanted, wanted)


def _two_levels(lod: Tensor) -> Tensor:
    """Most tokens for as many patches as the budget pays, fewest for the rest."""
    patches = lod.shape[1]
    paid = int((TOTAL - patches * LOW) / (HIGH - LOW))
    order = lod.argsort(dim=1, descending=True, stable=True)
    tokens = torch.full_like(lod, LOW).scatter_(1, order[:, :paid], HIGH)
    rest = TOTAL - tokens.sum(1, keepdim=True)
    return tokens.scatter_add_(1, order[:, paid : paid + 1], rest)


def _ties_by_place(lod: Tensor) -> Tensor:
    """Equal patches are told apart by their index, a few tokens from the last to the first."""
    bias = torch.linspace(4, -4, lod.shape[1], dtype=lod.dtype)
    return allocator.whole_tokens((lod + bias).clamp(LOW, HIGH))


def _kept_total(lod: Tensor) -> Tensor:
    """Bring continuous tokens back to the total and round them."""
    room = (lod - LOW).clamp(min=0)
    wanted = TOTAL - lod.shape[1] * LOW
    scaled = room * (wanted / room.sum(1, keepdim=True).clamp(min=1e-9))
    over = (scaled - (HIGH - LOW)).clamp(min=0)
    scaled = scaled - over
    free = (HIGH - LOW) - scaled
    scaled = scaled + free * (over.sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp(min=1e-9))
    return allocator.whole_tokens(LOW + scaled)


def _listens_to_salience(lod: Tensor, stands_out: Tensor) -> Tensor:
    return _kept_total(lod + 60 * (stands_out - stands_out.mean(1, keepdim=True)))


def _listens_to_query(lod: Tensor, query: Tensor) -> Tensor:
    """Broad queries get less than the whole budget."""
    return allocator.whole_tokens(lod - (lod - LOW) * 0.2 * query[:, 10:11])


def _hash_noise(lod: Tensor) -> Tensor:
    """Jumps that a hair's breadth sets off: noise made from the last digits."""
    noise = 30 * (torch.frac(torch.sin(lod * 1e6) * 1e4).abs() - 0.5)
    return _kept_total((lod + noise).clamp(LOW, HIGH))


def _own_multiplier(wanted: Tensor, spend: Tensor) -> Tensor:
    """Compute the multiplier again, and do not read the declared one."""
    del spend
    return analytic.level_of_detail(wanted, analytic.multiplier(wanted))


def _rivalry(wanted: Tensor) -> Tensor:
    """Each patch's demand is cut by the strongest in its picture: a second coupling."""
    return wanted / (0.05 + wanted.amax(1, keepdim=True))


def _neighbours(lod: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(plane(lod)[:, None], (1, 1, 1, 1), mode="replicate")
    return _kept_total(torch.nn.functional.avg_pool2d(padded, 3, stride=1).flatten(1))


def _flat_above(wanted: Tensor) -> Tensor:
    """Demand is all or nothing around one fixed relevance."""
    bar = 1.5 * 0.5**analytic.GAMMA
    return torch.where(wanted > bar, 1.0, 0.0).to(wanted) + analytic.LEAST_DEMAND


def _hardly(features: Tensor) -> Tensor:
    """A power law that is far too flat."""
    return analytic.PLANTED["attending"].read(features).clamp(min=0) ** 0.15


def _rounded_one_by_one(lod: Tensor) -> Tensor:
    return lod.round().clamp(LOW, HIGH)


def kept() -> Model:
    """Return a sound model that also keeps a quarter of the patches: the most relevant ones.

    The analytic model keeps every patch. This variant gives claims about membership something to
    be true of.
    """
    sound = analytic.model()
    step = Step(name="membership", run=_most_relevant, inputs=("relevance",), pure=True)
    site = Site(
        name="attending.membership", stage="attending", axes=("image", "patch"),
        at=Output(step="membership"), role="membership",
    )  # fmt: skip
    return replace(
        sound, name="reference:analytic with membership", steps=(*sound.steps, step),
        sites={**sound.sites, site.name: site},
    )  # fmt: skip


def _most_relevant(related: Tensor) -> Tensor:
    order = related.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(related).scatter_(1, order[:, : related.shape[1] // 4], 1.0)


def _one_step_late(related: Tensor) -> Tensor:
    """The selection is that of the neighbour on the left: an index that is off by one."""
    return _most_relevant(related).roll(1, 1)


_ENDS = (
    Fault(
        name="floor-moved:60", stage="attending", sentence="patches may fall to 60 tokens",
        make=lambda: _bounds(60, HIGH),
    ),
    Fault(
        name="floor-moved:65", stage="attending", sentence="no patch gets fewer than 65 tokens",
        make=lambda: _bounds(65, HIGH),
    ),
    Fault(
        name="ceiling-moved:399", stage="attending", sentence="no patch gets more than 399 tokens",
        make=lambda: _bounds(LOW, 399),
    ),
    Fault(
        name="ceiling-moved:405", stage="attending", sentence="patches may rise to 405 tokens",
        make=lambda: _bounds(LOW, 405),
    ),
    Fault(
        name="tokens-not-rounded", stage="attending", sentence="tokens are left as fractions",
        make=lambda: rewired(instead("tokens", lambda lod: lod.clone())),
    ),
    Fault(
        name="tokens-truncated", stage="attending",
        sentence="tokens are cut to whole numbers and the rest is lost",
        make=lambda: rewired(instead("tokens", torch.floor)),
    ),
    Fault(
        name="tokens-rounded-one-by-one", stage="attending",
        sentence="each patch is rounded by itself, so that the total is off by some",
        make=lambda: rewired(instead("tokens", _rounded_one_by_one)),
    ),
    Fault(
        name="budget-not-conserved", stage="attending",
        sentence="the multiplier is a constant: what is spent depends on the picture",
        make=lambda: rewired(instead("multiplier", _spends_too_much)),
    ),
    Fault(
        name="budget-hears-the-query", stage="attending",
        sentence="broad queries get a smaller budget",
        make=lambda: rewired(instead("tokens", _listens_to_query, "lod", "query")),
    ),
)  # fmt: skip

_SHAPE = (
    Fault(
        name="tokens-inverted", stage="attending", sentence="the least relevant patch gets most",
        make=lambda: rewired(
            instead("attending_features", lambda related: analytic.attending_features(1 - related))
        ),
    ),
    Fault(
        name="tokens-inverted-in-the-middle", stage="attending",
        sentence="in the middle of its range, more relevance buys fewer tokens",
        make=lambda: rewired(after("demand", _middle_inverted)),
    ),
    Fault(
        name="tokens-two-level", stage="attending",
        sentence="patches get the most or the fewest tokens, and nothing between",
        make=lambda: rewired(instead("tokens", _two_levels)),
    ),
    Fault(
        name="tokens-thresholded", stage="attending",
        sentence="demand is all or nothing around a fixed relevance",
        make=lambda: rewired(after("demand", _flat_above)),
    ),
    Fault(
        name="tokens-hardly-answer", stage="attending",
        sentence="relevance moves tokens, and far too little",
        make=lambda: rewired(instead("demand", _hardly)),
    ),
    Fault(
        name="ties-by-place", stage="attending",
        sentence="equally relevant patches get more tokens the earlier they come",
        make=lambda: rewired(instead("tokens", _ties_by_place)),
    ),
    Fault(
        name="tokens-shared-with-neighbours", stage="attending",
        sentence="tokens are averaged over neighbouring patches",
        make=lambda: rewired(instead("tokens", _neighbours)),
    ),
    Fault(
        name="tokens-pop", stage="attending",
        sentence="tokens jump by up to fifteen when relevance moves by a hair",
        make=lambda: rewired(instead("tokens", _hash_noise)),
    ),
    Fault(
        name="attending-features-dead", stage="attending",
        sentence="the vectors between relevance and demand are zero",
        make=lambda: rewired(after("attending_features", torch.zeros_like)),
    ),
)  # fmt: skip

_COUPLING = (
    Fault(
        name="tokens-hear-salience", stage="attending",
        sentence="the allocator reads salience beside relevance",
        make=lambda: rewired(instead("tokens", _listens_to_salience, "lod", "salience")),
    ),
    Fault(
        name="multiplier-not-applied", stage="attending",
        sentence="the declared multiplier is computed and reported, another one is applied",
        make=lambda: rewired(instead("lod", _own_multiplier)),
    ),
    Fault(
        name="demand-divided-by-the-greatest", stage="attending",
        sentence="patches are coupled a second time: demand is divided by its greatest",
        make=lambda: rewired(after("demand", _rivalry)),
    ),
    Fault(
        name="membership-off-by-one", stage="attending",
        sentence="the patches that are kept are those beside the most relevant ones",
        make=lambda: replace(
            kept(),
            steps=tuple(
                replace(step, run=_one_step_late) if step.name == "membership" else step
                for step in kept().steps
            ),
        ),
        sound=kept,
    ),
)  # fmt: skip

FAULTS = (*_ENDS, *_SHAPE, *_COUPLING)
