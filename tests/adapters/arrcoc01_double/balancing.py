"""A small network weighs the three scores by their summaries and the query."""

import torch
from torch import nn


class AdaptiveTensionBalancer(nn.Module):
    """Weights from mean, maximum and deviation of each score, and the query."""

    def __init__(self, hidden_dim: int = 128, query_dim: int = 1536):
        super().__init__()
        self.weight_predictor = nn.Sequential(
            nn.Linear(9 + query_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 3),
            nn.Softmax(dim=-1),
        )

    def forward(
        self,
        info_scores: torch.Tensor,
        persp_scores: torch.Tensor,
        partic_scores: torch.Tensor,
        positions: torch.Tensor,
        query_embeds: torch.Tensor,
        image_size: tuple = (32, 32),
    ) -> torch.Tensor:
        scores = torch.stack([info_scores, persp_scores, partic_scores], 1)
        summary = torch.stack([scores.mean(2), scores.amax(2), scores.std(2)], 2).flatten(1)
        weights = self.weight_predictor(torch.cat([summary, query_embeds], 1))
        mixed = (weights[:, :, None] * scores).sum(1)
        return (mixed - mixed.amin()) / (mixed.amax() - mixed.amin() + 1e-8)

    def get_tension_values(self) -> dict:
        """Tell three numbers that mean nothing yet."""
        names = ("compress_vs_particularize", "exploit_vs_explore", "focus_vs_diversify")
        return dict.fromkeys(names, 0.5)
