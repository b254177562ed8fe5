"""Turn other forms of a budget into one entry a patch: chosen indices, ratios, merges.

Pruners return the indices they keep, others a ratio, mergers which patches became one token. Put
one of these as a last step, and the model has the site `attending.membership` or
`attending.tokens` that its allocation is read from.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def membership(indices: Int[Tensor, "image kept"], patches: int) -> Bool[Tensor, "image patch"]:
    """Return which patches are among the chosen `indices`; negative indices are padding."""
    kept = torch.zeros(len(indices), patches + 1, dtype=torch.bool, device=indices.device)
    kept.scatter_(1, torch.where(indices < 0, patches, indices).long(), True)
    return kept[:, :patches]


def share_kept(
    relevance: Float[Tensor, "image patch"], ratio: Float[Tensor, " image"]
) -> Bool[Tensor, "image patch"]:
    """Return the mask of the most relevant patches, `ceil(ratio * N)` of each image; ratio 0..1."""
    count = torch.ceil(ratio.double() * relevance.shape[1]).clamp(0, relevance.shape[1])
    rank = relevance.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < count[:, None]


def merged(groups: Int[Tensor, "image patch"]) -> Float[Tensor, "image patch"]:
    """Return tokens a patch when patches of one group share one token: 1 / size of the group."""
    count = int(groups.max()) + 1
    sizes = torch.zeros(len(groups), count, device=groups.device)
    sizes.scatter_add_(1, groups.long(), torch.ones_like(groups, dtype=sizes.dtype))
    return 1 / sizes.gather(1, groups.long())
