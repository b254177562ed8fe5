"""The most relevant patches, each with a budget of one."""

import torch
from torch import nn


class TokenAllocator(nn.Module):
    """Top-K by relevance."""

    def __init__(self, K: int = 200):  # noqa: N803 - the published name
        super().__init__()
        self.K = K

    def forward(self, balanced_scores: torch.Tensor):
        _, indices = torch.topk(balanced_scores, self.K, dim=1, sorted=True)
        return indices, torch.ones_like(indices, dtype=torch.float32)
