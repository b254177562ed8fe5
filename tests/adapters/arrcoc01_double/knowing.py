"""Three scorers: two plain functions and a module."""

import torch
from torch import nn
from torch.nn import functional


def information_score(texture: torch.Tensor) -> torch.Tensor:
    """Entropy over the channels, stretched by the extremes of the batch: `[B, h, w]`."""
    logs = texture.log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1)
    low, high = entropy.amin(), entropy.amax()
    return (entropy - low) / (high - low + 1e-8)


def perspectival_score(texture: torch.Tensor) -> torch.Tensor:
    """Channel seven as it is."""
    return texture[:, 7]


class ParticipatoryScorer(nn.Module):
    """Cosine of projected texture and query, as 0..1."""

    def __init__(self, texture_dim: int = 13, query_dim: int = 1536):
        super().__init__()
        self.texture_proj = nn.Sequential(
            nn.Conv2d(texture_dim, 64, 1), nn.ReLU(), nn.Conv2d(64, query_dim, 1)
        )

    def forward(self, texture: torch.Tensor, query_embeds: torch.Tensor) -> torch.Tensor:
        projected = functional.normalize(self.texture_proj(texture), dim=1)
        cosine = torch.einsum("bdhw,bd->bhw", projected, functional.normalize(query_embeds, dim=1))
        return (cosine + 1) / 2
