"""Whether directions turn with the query: the test that a turning dictionary has to pass first.

If a conditional dictionary's decoder is right, what it leaves unexplained is uncorrelated with
`code x query`, latent by latent. The score is the share of the residual that these products
explain, on held-out samples, in what is orthogonal to each latent's own direction: along it the
query's offset of the threshold makes residual and query depend on each other without any turning.

The score is never 0, as codes are inferred and features overlap. So it is compared with refits on
worlds that do not turn: the fitted codes and directions, with residuals drawn from samples of the
same query.

A world that is made of a dictionary is easier than the one the dictionary was fitted to, so that
refits score less where nothing turns, too, and the score is no draw from theirs. How much less is
measured one level down: each refit has a refit of its own, on a world that is made of it. What is
tested is whether the dictionary is further above its refits than refits are above their own (the
double bootstrap: Beran, JASA 83, 1988).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from scipy import stats
from torch import Tensor

from arrcoc_verify.dictionary.architecture import Dictionary
from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.dictionary.training import Figures, Recipe, Source, Trainer
from arrcoc_verify.errors import UsageError

COORDINATES = 11
"""Principal coordinates of the query that are looked at."""
LEAST_RATIO = 2.0
"""Least ratio (see `RotationTest`) that counts as turning, whatever its p-value.

After few steps one latent may still serve features of different queries, which is no turning and
more than refits know of: there the p-value alone says so too often (see `stillness`).
"""
LEAST_FIRINGS = 20
GROUPS = 64
"""Different queries up to which residuals are drawn within a query."""
_POOL = 2**41
Tell = Callable[[Figures], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationTest:
    """What the test found.

    Attributes:
        score: share of the residual that code x query explains, off each direction.
        refits: the same of refits on worlds that do not turn.
        again: the same of each refit's own refit, on a world that is made of it.
        ratio: score over the geometric mean of refits, over the same of refits and their own.
        p_value: of this score being to its refits what one more refit is to its own (t on
            logarithms, with the uncertainty of the refits' mean).
        turns: rejected, and by more than `LEAST_RATIO`.
    """

    score: float
    refits: tuple[float, ...]
    again: tuple[float, ...]
    ratio: float
    p_value: float
    turns: bool


def score(dictionary: Dictionary, samples: Samples) -> float:
    """Return the share of the residual that code x query explains off each latent's direction."""
    query = _query(samples)
    codes = dictionary.encode(samples.x, query)
    left = samples.wanted - dictionary.decode(codes, query=query, x=samples.x)
    seen = (codes > 0).sum(0) >= LEAST_FIRINGS
    codes, rows = codes[:, seen], dictionary.W_dec[seen]
    explained = torch.zeros((), dtype=torch.float64)
    square = codes.square()
    for one in _coordinates(query).T:
        mean = (square * one[:, None]).sum(0) / square.sum(0).clamp(min=1e-12)
        product = codes * (one[:, None] - mean)
        moment = product.T @ left
        moment = moment - (moment * rows).sum(1, keepdim=True) * rows
        explained += (moment.square().sum(1) / product.square().sum(0).clamp(min=1e-9)).sum()
    return float(explained / left.square().sum())


def rotation_test(  # noqa: PLR0913 - each is named at the call
    dictionary: Dictionary,
    source: Source,
    judged: Samples,
    recipe: Recipe,
    *,
    refits: int = 5,
    alpha: float = 0.01,
    device: str = "cpu",
    tell: Tell = lambda _: None,
) -> RotationTest:
    """Test whether the directions of what a conditional dictionary encodes turn with the query.

    Args:
        dictionary: conditional, without turns, trained on `source`.
        source: its samples.
        judged: samples that it was not trained on.
        recipe: of the refits; their seeds follow on its own.
        refits: at least 3; as many again are trained on what those say.
        alpha: level.
        device: where refits are trained.
        tell: called after each step of a refit.

    Raises:
        UsageError: too few refits, or nothing that depends on a query.
    """
    if refits < 3 or not dictionary.config.query or dictionary.config.turns:
        raise UsageError(
            "the test wants 3 refits or more and a conditional dictionary without turns, got "
            f"{refits} refits, query={dictionary.config.query}, turns={dictionary.config.turns}"
        )
    first: list[float] = []
    second: list[float] = []
    for at in range(refits):
        own = replace(recipe, seed=recipe.seed + 101 + at)
        refit, world, seen = _refit(dictionary, source, judged, own, device, tell)
        own = replace(recipe, seed=recipe.seed + 1101 + at)
        again, _, seen_again = _refit(refit, world, seen, own, device, tell)
        with torch.no_grad():
            first.append(score(refit, seen))
            second.append(score(again, seen_again))
    with torch.no_grad():
        return _decided(score(dictionary, judged), first, second, alpha)


def _refit(
    dictionary: Dictionary,
    source: Source,
    judged: Samples,
    recipe: Recipe,
    device: str,
    tell: Tell,
) -> tuple[Dictionary, "Still", Samples]:
    """Return a refit on a still world made of a dictionary, that world, and what judges there."""
    with torch.no_grad():
        world = replace(Still.of(dictionary, source), seed=recipe.seed)
    made = Trainer(dictionary.config, recipe, world, device=device).train(tell).cpu()
    return made, world, world.drawn(judged, -1)


def _decided(
    found: float, refits: Sequence[float], again: Sequence[float], alpha: float
) -> RotationTest:
    first, second = (torch.tensor(one, dtype=torch.float64).log() for one in (refits, again))
    fallen = first - second
    away = math.log(found) - float(first.mean() + fallen.mean())
    spread = float(fallen.std()) * math.sqrt(1 + 1 / len(refits))
    p = float(stats.t.sf(away / max(spread, 1e-12), len(refits) - 1))
    ratio = math.exp(away)
    return RotationTest(
        score=found, refits=tuple(refits), again=tuple(again), ratio=ratio, p_value=p,
        turns=p < alpha and ratio > LEAST_RATIO,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Still:
    """A source like another, as a dictionary sees it, in which no direction turns.

    Attributes:
        dictionary: gives codes and directions.
        source: gives activations and queries.
        left: residuals `[sample, channel]` to draw noise from.
        group: number of the query of each residual, `[sample]`.
        queries: the queries that are told apart, `[group, query]`.
        seed: of the draw.
    """

    dictionary: Dictionary
    source: Source
    left: Tensor
    group: Tensor
    queries: Tensor
    seed: int = 0

    @classmethod
    def of(cls, dictionary: Dictionary, source: Source) -> "Still":
        """Take the residuals of held-out samples."""
        held = source.held_out()
        query = _query(held)
        left = held.wanted - dictionary(held.x, query)
        queries = query.unique(dim=0)
        if len(queries) > GROUPS:  # many wordings: the nearest of a few of them stands for each
            generator = torch.Generator().manual_seed(0)
            queries = queries[torch.randperm(len(queries), generator=generator)[:GROUPS]]
        group = torch.cdist(query, queries).argmin(1)
        order = group.argsort(stable=True)
        return cls(
            dictionary=dictionary, source=source, left=left[order], group=group[order],
            queries=queries,
        )  # fmt: skip

    @torch.no_grad()
    def drawn(self, samples: Samples, number: int) -> Samples:
        """Return samples with the same queries and codes, and residuals of the same query."""
        query = _query(samples)
        generator = torch.Generator().manual_seed((self.seed * 7_919 + number) % 2**62)
        group = torch.cdist(query, self.queries).argmin(1)
        count = torch.bincount(self.group, minlength=len(self.queries)).clamp(min=1)
        first = torch.cumsum(count, 0) - count
        at = (torch.rand(len(query), generator=generator) * count[group]).long() + first[group]
        drawn = self.dictionary(samples.x, query) + self.left[at.clamp(max=len(self.left) - 1)]
        if samples.target is not None:  # what is encoded stays: only what is decoded is drawn
            return replace(samples, target=drawn)
        return Samples(x=drawn, query=query)

    def batch(self, step: int) -> Samples:
        """Return the batch of a step."""
        return self.drawn(self.source.batch(step), step)

    def held_out(self) -> Samples:
        """Return samples that no batch holds."""
        return self.drawn(self.source.held_out(), _POOL)


def _query(samples: Samples) -> Tensor:
    if samples.query is None:
        raise UsageError("whether directions turn with the query needs samples with queries")
    return samples.query


def _coordinates(query: Tensor) -> Tensor:
    """Return whitened principal coordinates of the queries, `[sample, coordinate]`."""
    centred = (query - query.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    keep = values > 1e-6 * values.max()
    values, vectors = values[keep][-COORDINATES:], vectors[:, keep][:, -COORDINATES:]
    found: Tensor = ((centred @ vectors) / values.sqrt()).float()
    return found
