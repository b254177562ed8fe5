"""The learned parts of the trained reference model: encoder, scorers, balancer, curve, task head.

Every scorer writes a non-negative feature vector a patch and reads its score from it as z / (1 + z)
with z a weighted sum. Balancing and attending carry vectors in which the scorers' features lie in
superposition; along one read-out direction they add up to the mix, to relevance, exactly.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.reference.trained.realising import CELL, FLOOR, GRID

CHANNELS = 1280
"""Channels of the image tower's patches."""
WIDTH, HEADS, LAYERS = 160, 4, 3
FEATURES = 96
"""Features of each scorer a patch."""
VECTOR = 96
"""Channels of the vectors that balancing and attending carry."""
DIGITS = 10
SHARPNESS = 40.0
"""Temperature of the match between a query and the names of the 1,000 classes."""
TINY = 1e-4


class Readout(nn.Module):
    """A score in 0..1 read from non-negative features: z / (1 + z), z their weighted sum."""

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.full((features,), -2.0))

    def sum(self, features: Tensor) -> Tensor:
        """Return z `[image, patch]`."""
        z: Tensor = features @ F.softplus(self.raw) + TINY
        return z

    def forward(self, features: Float[Tensor, "image patch channel"]) -> Tensor:
        """Return the score `[image, patch]`."""
        z = self.sum(features)
        return z / (1 + z)


class Block(nn.Module):
    """A transformer block over patches, without positions: what counts is what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.heads = nn.Identity()
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Float[Tensor, "image patch channel"]) -> Tensor:
        """Return the patches after attention and MLP."""
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, WIDTH)
        x = x + self.out(self.heads(mixed))
        after: Tensor = x + self.mlp(self.norm2(x))
        return after


class Context(nn.Module):
    """Transformer blocks over the patches of one picture; no query reaches them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.last = nn.LayerNorm(WIDTH)

    def forward(self, patches: Float[Tensor, "image patch channel"]) -> Tensor:
        """Return `[image, patch, WIDTH]`."""
        x = self.project(self.norm(patches))
        for block in self.blocks:
            x = block(x)
        last: Tensor = self.last(x)
        return last


class Information(nn.Module):
    """How unpredictable a patch's luminance is: from its 64 samples, in no order, and no more."""

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", torch.arange(1, 33) * math.pi, persistent=False)
        self.sample = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 96), nn.GELU())
        self.pooled = nn.Sequential(nn.Linear(96, 128), nn.GELU(), nn.Linear(128, FEATURES))
        self.read = Readout()

    def features(self, glance: Float[Tensor, "image 3 height width"]) -> Tensor:
        """Return `[image, patch, FEATURES]`, not negative."""
        weight = glance.new_tensor([0.299, 0.587, 0.114])
        light = torch.einsum("bchw,c->bhw", glance, weight)
        b = light.shape[0]
        cells = light.reshape(b, GRID, FLOOR, GRID, FLOOR).permute(0, 1, 3, 2, 4)
        angle = cells.reshape(b, GRID * GRID, FLOOR * FLOOR, 1) * self.waves
        seen = self.sample(torch.cat([angle.sin(), angle.cos()], -1))
        return F.relu(self.pooled(seen.mean(2)))


class Salience(nn.Module):
    """How far a patch stands out from its surround and from the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Conv2d(3, 32, FLOOR, stride=FLOOR)
        self.near = nn.Conv2d(64, 96, 3, padding=1, padding_mode="replicate")
        self.far = nn.Conv2d(96, 96, 3, padding=4, dilation=4, padding_mode="replicate")
        self.last = nn.Conv2d(96, FEATURES, 1)
        self.read = Readout()

    def features(self, glance: Float[Tensor, "image 3 height width"]) -> Tensor:
        """Return `[image, patch, FEATURES]`, not negative."""
        seen = self.cell(glance - 0.5)
        apart = seen - seen.mean((2, 3), keepdim=True)
        around = F.gelu(self.far(F.gelu(self.near(torch.cat([seen, apart], 1)))))
        return F.relu(self.last(around)).flatten(2).transpose(1, 2).contiguous()


class QueryRelevance(nn.Module):
    """How a patch couples to the query: three products of the two, rectified."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.meeting = nn.Linear(embed, FEATURES, bias=False)
        self.patch = nn.Linear(WIDTH + 6, 128)
        self.query = nn.Linear(embed, 128)
        self.couple = nn.Linear(128, FEATURES)
        self.evidence = nn.Parameter(torch.full((FEATURES,), 0.1))
        self.read = Readout()

    def features(self, seen: Tensor, met: Tensor, evidence: Tensor, query: Tensor) -> Tensor:
        """Return `[image, patch, FEATURES]`, not negative.

        Args:
            seen: `[image, patch, WIDTH + 6]`, patches in context and their colours.
            met: `[image, patch, embed]`, patches in the space of queries, unit length.
            evidence: `[image, patch]`, of the query's nearest classes.
            query: `[image, embed]`.
        """
        direct = self.meeting(met * query[:, None] * query.shape[1] ** 0.5)
        product = self.couple(self.patch(seen) * self.query(query)[:, None])
        return F.relu(direct + product + evidence[..., None] * self.evidence)


class Balancer(nn.Module):
    """Three tensions from query and image, and the weights that they give the scorers."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.said, self.shown = nn.Linear(embed, 48), nn.Linear(WIDTH, 16)
        self.hidden = nn.Linear(48 + 16 + 6, 64)
        self.out = nn.Linear(64, 3)
        self.gain = nn.Parameter(torch.full((3,), 3.0))
        self.bias = nn.Parameter(torch.tensor([-0.8, -0.2, 0.6]))

    def context(self, query: Tensor, seen: Tensor, scores: Tensor) -> Tensor:
        """Return `[image, 70]` from query, patches in context and scores `[image, patch, 3]`."""
        stats = torch.cat([scores.mean(1), scores.amax(1)], 1)
        return torch.cat([self.said(query), self.shown(seen.mean(1)), stats], 1)

    def tensions(self, context: Float[Tensor, "image channel"]) -> Tensor:
        """Return compress, exploit and focus, 0..1 each."""
        return torch.sigmoid(self.out(F.gelu(self.hidden(context))))

    def weights(self, tension: Float[Tensor, "image 3"]) -> Tensor:
        """Return the weights of information, salience and query relevance; they sum to 1."""
        logits = F.softplus(self.gain) * (tension - 0.5) + self.bias
        return torch.softmax(logits, dim=1)


class Superposition(nn.Module):
    """Writes the scorers' features into one vector whose product with `readout` is the mix."""

    readout: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        raw = torch.randn(3, FEATURES, VECTOR, generator=generator) / VECTOR**0.5
        self.write = nn.Parameter(raw)
        axis = torch.randn(VECTOR, generator=generator)
        self.register_buffer("readout", axis / axis.norm())

    def directions(self, values: Tensor) -> Tensor:
        """Return `[scorer, feature, channel]` whose product with the readout is `values`."""
        along = self.write @ self.readout
        return self.write + (values - along)[..., None] * self.readout

    def forward(self, parts: Tensor, features: Tensor, values: Tensor) -> Tensor:
        """Return `[image, patch, VECTOR]`.

        Args:
            parts: `[image, patch, scorer]`, weight times score.
            features: `[image, patch, scorer, feature]`.
            values: `[scorer, feature]`, each feature's part in its score.
        """
        total = (features * values).sum(3, keepdim=True) + TINY
        share = features / total * parts[..., None]
        carried = torch.einsum("bnsf,sfc->bnc", share, self.directions(values))
        # The trace that no feature carries goes along the readout.
        rest = (parts * (TINY / total[..., 0])).sum(2)
        return carried + rest[..., None] * self.readout


class Curve(nn.Module):
    """From relevance to demand: a power, learned between 2 and 8, and a vector that carries it."""

    turn: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(()))
        turn = torch.randn(VECTOR, VECTOR, generator=torch.Generator().manual_seed(6))
        self.register_buffer("turn", torch.linalg.qr(turn).Q)

    @property
    def power(self) -> Tensor:
        """The exponent."""
        return 2 + 6 * torch.sigmoid(self.raw)


class TaskHead(nn.Module):
    """Reads the digit on what was asked for from realised patches, and from nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.GELU(),
            nn.Conv2d(24, 48, 3, padding=1, stride=2), nn.GELU(),
            nn.Conv2d(48, 64, 3, padding=1, stride=2), nn.GELU(),
            nn.Flatten(), nn.Linear(64 * (CELL // 4) ** 2, 96), nn.GELU(),
        )  # fmt: skip
        self.digit, self.present = nn.Linear(96, DIGITS), nn.Linear(96, 1)
        self.trust = nn.Parameter(torch.tensor(8.0))

    def forward(self, realised: Tensor, tokens: Tensor) -> Tensor:
        """Return `[image, digit]` logits.

        Args:
            realised: `[image, patch, 3, 20, 20]` in 0..1.
            tokens: `[image, patch]`; patches with more detail are trusted more.
        """
        b, n = tokens.shape
        flat = realised.flatten(0, 1)
        seen = self.see(flat - flat.mean((1, 2, 3), keepdim=True)).reshape(b, n, -1)
        bought = (tokens.to(seen) - 64) / 336
        mark = self.present(seen)[..., 0] + self.trust * bought
        return torch.einsum("bn,bnd->bd", torch.softmax(mark, 1), self.digit(seen))
