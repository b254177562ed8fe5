"""Planted worlds whose features, firing and use of the query are known.

    prior       the query says which features are likely: conditioning must win
    turning     directions turn with the query: only a turning dictionary can follow
    irrelevant  the same features as `prior`, as often, whatever the query: it must not win
    gain        the query scales amplitudes only: a plain dictionary is exact, it must not win

Activations are `codes @ directions + noise`; the query enters nowhere else. Queries are one-hot or
text embeddings, several phrases to a query.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from arrcoc_verify.dictionary.losses import Samples
from arrcoc_verify.errors import UnknownName

Kind = Literal["prior", "turning", "irrelevant", "gain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LIKELY, UNLIKELY = 0.2, 0.002
TURNS = 3
"""Coordinates along which directions of the turning world turn."""
_TURN = 0.75
"""Root mean square over queries of how far directions turn, as a tangent."""
_SIZES = {"turning": (32, 32), "gain": (24, 24)}
"""Channels and features of the worlds that are not overcomplete."""
_HELD_OUT = 2**40
"""Seeds of held-out samples lie beyond those of any step."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Samples with what is true of them.

    Attributes:
        samples: activations and queries.
        codes: planted codes, `[sample, feature]`.
        asked: number of each sample's query.
    """

    samples: Samples
    codes: Tensor
    asked: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A source of samples with planted features.

    Attributes:
        kind: one of `KINDS`.
        directions: unit rows `[feature, channel]`; at the mean query where they turn.
        chance: `[query, feature]`, how likely a feature is under a query.
        phrases: query vectors `[query, phrase, channel]`.
        turn: `[turn, feature, channel]`, how directions turn; None where they do not.
        coordinates: `[query, turn]`, how far under each query.
        size: samples of a batch.
        seed: of the world and its samples.
        noise: standard deviation of the noise of a channel.
        held: samples that are held out.
    """

    kind: Kind
    directions: Tensor
    chance: Tensor
    phrases: Tensor
    turn: Tensor | None
    coordinates: Tensor
    size: int
    seed: int
    noise: float
    held: int = 8192

    @classmethod
    def make(
        cls, kind: Kind, *, seed: int, size: int = 256, phrases: Tensor | None = None
    ) -> "World":
        """Draw a world.

        Args:
            kind: one of `KINDS`.
            seed: of everything.
            size: samples of a batch.
            phrases: query vectors `[query, phrase, channel]`; None for twelve one-hot queries.
        """
        if kind not in KINDS:
            raise UnknownName("world", kind, KINDS)
        generator = torch.Generator().manual_seed(seed)
        if phrases is None:
            phrases = torch.eye(12)[:, None, :]
        queries = len(phrases)
        channels, features = _SIZES.get(kind, (24, 96))

        def unit(*shape: int) -> Tensor:
            rows = torch.randn(*shape, generator=generator)
            return rows.div_(rows.norm(dim=-1, keepdim=True))

        likely = torch.stack([torch.randperm(features, generator=generator)[:8]
                              for _ in range(queries)])  # fmt: skip
        chance = torch.full((queries, features), UNLIKELY).scatter(1, likely, LIKELY)
        if kind == "irrelevant":
            chance = chance.mean(0, keepdim=True).expand_as(chance).contiguous()
        if kind in _SIZES:
            chance = torch.full((queries, features), 2 / features)
        directions = unit(features, channels)
        if kind == "gain":  # nothing overlaps, so a plain code is exact
            directions = torch.linalg.qr(directions).Q
        coordinates = torch.randn(queries, TURNS, generator=generator)
        coordinates -= coordinates.mean(0)
        coordinates *= _TURN / coordinates.square().sum(1).mean().sqrt()
        return cls(
            kind=kind, directions=directions, chance=chance, phrases=phrases,
            turn=unit(TURNS, features, channels) if kind == "turning" else None,
            coordinates=coordinates,
            size=size, seed=seed, noise=0.03 if kind == "turning" else 0.05,
        )  # fmt: skip

    def draw(self, number: int, count: int) -> Truth:
        """Return `count` samples, the same for the same number."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**62)
        queries, phrases, _ = self.phrases.shape
        asked = torch.randint(queries, (count,), generator=generator)
        said = torch.randint(phrases, (count,), generator=generator)
        chance = self.chance[asked]
        fires = torch.rand(chance.shape, generator=generator) < chance
        codes = fires * (0.5 + torch.rand(chance.shape, generator=generator))
        if self.kind == "gain":
            codes = codes * (0.5 + asked[:, None] / max(queries - 1, 1))
        x = codes @ self.directions
        if self.turn is not None:
            for at, turn in enumerate(self.turn):
                x = x + self.coordinates[asked, at, None] * (codes @ turn)
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        samples = Samples(x=x, query=self.phrases[asked, said])
        return Truth(samples=samples, codes=codes, asked=asked)

    def batch(self, step: int) -> Samples:
        """Return the batch of a step."""
        return self.draw(step, self.size).samples

    def held_out(self) -> Samples:
        """Return samples for calibration that no batch holds."""
        return self.draw(_HELD_OUT, self.held).samples

    def judged(self) -> Truth:
        """Return samples with their truth, neither trained nor calibrated on."""
        return self.draw(_HELD_OUT + 1, self.held)

    @property
    def bits(self) -> float:
        """The most that conditioning may save: the sum over features of I(firing; query), bits."""
        chance = self.chance.double()
        return float((_entropy(chance.mean(0)) - _entropy(chance).mean(0)).sum())


def _entropy(p: Tensor) -> Tensor:
    nats: Tensor = torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)
    return -nats / math.log(2)
