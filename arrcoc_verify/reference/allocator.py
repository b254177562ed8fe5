"""Relevance to tokens under a conserved budget, in closed form.

    lod = clip(low + (high - low) * multiplier * demand, low, high),   sum(lod) = total

The multiplier is the one number that couples the patches: hold it, and each patch stands alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def solve_multiplier(
    demand: Float[Tensor, "image patch"], total: float, low: float, high: float
) -> Float[Tensor, " image"]:
    """Return the multiplier at which the clipped tokens add up to `total`, for each image.

    The sum is piecewise linear and rising in the multiplier, with one corner a patch, where that
    patch reaches `high`. Sorting the corners finds the piece, and the piece is solved exactly.

    A total that cannot be met is met as nearly as can be: too small, and the multiplier is 0, so
    that every patch has `low`; too large, and every patch with any demand has `high`. A picture
    without any demand gets multiplier 0.

    Args:
        demand: of each patch; below zero counts as zero, since such a patch gets `low` either way.
        total: between `patches * low` and `patches * high`.
        low: fewest tokens of a patch.
        high: most tokens of a patch.
    """
    patches = demand.shape[1]
    wanted = max(0.0, (total - patches * low) / (high - low))  # in units of a full patch
    ordered = demand.clamp(min=0).sort(1, descending=True).values
    tiny = torch.finfo(demand.dtype).tiny
    # With the first k patches full, the rest shares wanted - k in proportion to its demand.
    rest = ordered.flip(1).cumsum(1).flip(1)
    full = torch.arange(patches, dtype=demand.dtype, device=demand.device)
    candidate = (wanted - full) / rest.clamp(min=tiny)
    fits = (candidate * ordered <= 1) & (rest > 0)
    first = fits.double().argmax(1, keepdim=True)
    solved = candidate.gather(1, first).squeeze(1)
    least = ordered.where(ordered > 0, torch.inf).amin(1).clamp(min=tiny)
    return torch.where(fits.any(1), solved, 1 / least)


def level_of_detail(
    demand: Float[Tensor, "image patch"],
    multiplier: Float[Tensor, " image"],
    low: float,
    high: float,
) -> Float[Tensor, "image patch"]:
    """Return continuous tokens a patch, between `low` and `high`."""
    return (low + (high - low) * (multiplier[:, None] * demand)).clamp(low, high)


def whole_tokens(lod: Float[Tensor, "image patch"]) -> Float[Tensor, "image patch"]:
    """Return whole tokens by largest remainder, keeping each image's rounded sum.

    Equal remainders (to 1e-9) are served in patch order, so that the result does not hang on the
    last bits of a sum.
    """
    floor = (lod + 1e-9).floor()
    remainder = ((lod - floor).clamp(min=0) * 1e9).round()
    left = (lod.sum(1).round() - floor.sum(1)).long()
    order = remainder.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(lod.shape[1], device=lod.device).expand_as(order)
    )
    return floor + (place < left[:, None])
