"""A planted world of many sparse, correlated and hierarchical features, and what a probe can do.

In the manner of SynthSAEBench (SAELens, `synthetic`; own code): chances fall as a power law, firing
is correlated by a Gaussian copula of low rank, a child fires only with its parent, sizes are folded
normal. Directions are random and overlap, as there are more features than channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arrcoc_verify.dictionary.losses import Samples

PARENTS, CHILDREN = 16, 2
"""The first features are parents; each has so many children, which come next."""
CHILD_CHANCE = 0.3
"""Of a child when its parent fires."""
FACTORS = 8
SHARED = 0.4
"""Share of the variance behind firing that features have from common factors."""
NOISE = 0.02
_HELD_OUT, _JUDGED, _PROBED = 2**40, 2**40 + 1, 2**40 + 2


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseWorld:
    """A source of samples with planted features.

    Attributes:
        directions: unit rows `[feature, channel]`.
        chance: of each feature to fire, `[feature]`; of children given their parent.
        loadings: `[factor, feature]`, columns of norm 1.
        size: samples of a batch.
        seed: of the world and its samples.
        held: samples that are held out, and as many to judge on.
    """

    directions: Tensor
    chance: Tensor
    loadings: Tensor
    size: int
    seed: int
    held: int = 8192

    @classmethod
    def make(
        cls, *, seed: int, features: int = 256, channels: int = 64, active: float = 8.0,
        size: int = 512,
    ) -> "SparseWorld":  # fmt: skip
        """Draw a world in which about `active` features fire in a sample."""
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(features, channels, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        family = PARENTS * (1 + CHILDREN)
        rank = torch.arange(features, dtype=torch.float32)
        chance = (rank + 10) ** -0.5
        chance *= active / (chance[:PARENTS].sum() * (1 + CHILDREN * CHILD_CHANCE)
                            + chance[family:].sum())  # fmt: skip
        chance[PARENTS:family] = CHILD_CHANCE
        loadings = torch.randn(FACTORS, features, generator=generator)
        return cls(
            directions=directions, chance=chance.clamp(max=0.5), size=size, seed=seed,
            loadings=loadings / loadings.norm(dim=0),
        )  # fmt: skip

    def pairs(self) -> list[tuple[int, int]]:
        """Return every (parent, child)."""
        return [(at % PARENTS, PARENTS + at) for at in range(PARENTS * CHILDREN)]

    def draw(self, number: int, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` activations `[sample, channel]` and their codes `[sample, feature]`."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**62)
        features = len(self.directions)
        common = torch.randn(count, FACTORS, generator=generator) @ self.loadings
        own = torch.randn(count, features, generator=generator)
        level = torch.special.ndtri(1 - self.chance)
        fires = SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own > level
        for parent, child in self.pairs():
            fires[:, child] &= fires[:, parent]
        size = (1 + 0.3 * torch.randn(count, features, generator=generator)).abs()
        codes = fires * size
        x = codes @ self.directions
        return x + NOISE * torch.randn(x.shape, generator=generator), codes

    def batch(self, step: int) -> Samples:
        """Return the batch of a step."""
        return Samples(x=self.draw(step, self.size)[0])

    def held_out(self) -> Samples:
        """Return samples for calibration that no batch holds."""
        return Samples(x=self.draw(_HELD_OUT, self.held)[0])

    def judged(self) -> tuple[Tensor, Tensor]:
        """Return activations and codes that nothing is trained or calibrated on."""
        return self.draw(_JUDGED, self.held)


def probe_ceiling(world: SparseWorld, iterations: int = 60) -> float:
    """Return the mean F1 of a logistic probe a feature, trained on the planted truth.

    No encoder that reads activations linearly is expected above it. Thresholds are those of the
    best F1 on the probes' own training samples.
    """
    x, codes = world.draw(_PROBED, world.held)
    truth = (codes > 0).float()
    probe = nn.Linear(x.shape[1], truth.shape[1])
    with torch.no_grad():
        probe.weight.zero_()
        probe.bias.copy_(truth.mean(0).clamp(1e-4, 1 - 1e-4).logit())
    optimiser = torch.optim.LBFGS(
        probe.parameters(), max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(probe(x), truth)
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        logits, judged = probe(x), world.judged()
        steps = torch.linspace(-4, 4, 33)
        scores = torch.stack([_f1(logits > step, truth > 0) for step in steps])
        level = steps[scores.argmax(0)]
        should = judged[1] > 0
        return float(_f1(probe(judged[0]) > level, should)[should.any(0)].mean())


def _f1(fires: Tensor, should: Tensor) -> Tensor:
    hit = (fires & should).sum(0).double()
    return 2 * hit / (fires.sum(0) + should.sum(0)).clamp(min=1)


def absorption(world: SparseWorld, fires: Tensor, codes: Tensor) -> float:
    """Return how much more often a parent is missed when a child fires with it, mean over pairs.

    After Chanin et al., arXiv 2409.14507, with known truth: the share of samples of both in which
    the parent's own latent is silent, less that of samples with the parent and no child of its.

    Args:
        world: gives the pairs.
        fires: whether the latent that is matched to a feature fires, `[sample, feature]`.
        codes: planted, `[sample, feature]`.
    """
    true = codes > 0
    found = []
    for parent, child in world.pairs():
        own = [c for p, c in world.pairs() if p == parent]
        alone = true[:, parent] & ~true[:, own].any(1)
        both = true[:, parent] & true[:, child]
        if int(both.sum()) and int(alone.sum()):
            missed = ~fires[:, parent]
            more = missed[both].double().mean() - missed[alone].double().mean()
            found.append(max(0.0, float(more)))
    return sum(found) / max(len(found), 1)
