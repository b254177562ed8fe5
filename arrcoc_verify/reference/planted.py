"""Planted features: more of them than dimensions, and a readout that recovers their sum exactly.

Each feature direction is `share * readout + rest`, the rests being unit vectors spread over the
other dimensions. Codes therefore interfere with each other everywhere but along the readout, where
they add up: a dictionary has something to find, and the successor's reading has a closed form.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

DIMENSIONS = 48
_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A set of planted directions.

    Attributes:
        directions: unit vectors `[feature, channel]`, more features than channels.
        readout: vector `[channel]`; its product with codes x directions is the codes' sum.
    """

    directions: Tensor
    readout: Tensor

    @classmethod
    def make(cls, features: int, seed: int) -> "Planted":
        """Return `features` directions in 48 dimensions, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        rest = torch.randn(features, DIMENSIONS - 1, generator=generator, dtype=torch.float64)
        rest = rest / rest.norm(dim=1, keepdim=True) * (1 - _SHARE**2) ** 0.5
        axis = torch.full((features, 1), _SHARE, dtype=torch.float64)
        raw = torch.randn(DIMENSIONS, DIMENSIONS, generator=generator, dtype=torch.float64)
        turn = torch.linalg.qr(raw).Q  # so that no coordinate is special
        return cls(directions=torch.cat([axis, rest], 1) @ turn, readout=turn[0] / _SHARE)

    def embed(self, codes: Float[Tensor, "*lead feature"]) -> Float[Tensor, "*lead channel"]:
        """Return the activation vector that carries `codes`."""
        return codes @ self.directions

    def read(self, vectors: Float[Tensor, "*lead channel"]) -> Float[Tensor, "*lead"]:
        """Return the sum of the codes that `vectors` carry."""
        return vectors @ self.readout


def hats(values: Float[Tensor, "*lead"], count: int, top: float) -> Float[Tensor, "*lead {count}"]:
    """Return codes `value * hat_j(value)`: at most two are not zero, and they sum to the value.

    The hats are the piecewise linear partition of unity with `count` knots on [0, top]; values
    outside belong to the nearest knot.
    """
    place = (values / top).clamp(0, 1) * (count - 1)
    knots = torch.arange(count, dtype=values.dtype, device=values.device)
    weight = (1 - (place[..., None] - knots).abs()).clamp(min=0)
    return values[..., None] * weight
