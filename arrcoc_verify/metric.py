"""Numbers read from an allocation, each marked continuous or discrete.

Discrete readings move at thresholds only; a claim of no effect is tested on a continuous one.
Ties count fractionally.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc_verify.errors import ShapeMismatch
from arrcoc_verify.model import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A reading of an allocation over a region.

    Attributes:
        name: one of `METRICS`.
        unit: what one is counted in.
        continuous: False when it moves at thresholds only.
        read: (allocation, region mask `[image, patch]`) -> `[image]`.
    """

    name: str
    unit: str
    continuous: bool
    read: Callable[[Allocation, Tensor], Tensor]

    def __call__(self, allocation: Allocation, region: Tensor) -> Tensor:
        """Return the reading for each image, float64."""
        if region.shape != allocation.tokens.shape:
            raise ShapeMismatch(
                f"metric {self.name!r} wants a region mask of shape "
                f"{tuple(allocation.tokens.shape)}, got {tuple(region.shape)}"
            )
        if not bool(region.any(1).all()):
            raise ShapeMismatch(f"metric {self.name!r}: a region holds no patch")
        return self.read(allocation, region)


def mean_over(values: Tensor, region: Tensor) -> Tensor:
    """Return the mean of `values` `[image, patch]` over each image's region, `[image]`."""
    weights = region.double()
    return (values.double() * weights).sum(1) / weights.sum(1)


def _share(allocation: Allocation, region: Tensor) -> Tensor:
    total = allocation.tokens.sum(1)
    held = (allocation.tokens * region).sum(1)
    return torch.where(total > 0, held / total, torch.zeros_like(total))


def _rank(allocation: Allocation, region: Tensor) -> Tensor:
    """Mean fraction of the other patches that those of a region exceed in relevance, ties half."""
    values = allocation.relevance.double()
    below = torch.searchsorted(values.sort(1).values, values, side="left").double()
    upto = torch.searchsorted(values.sort(1).values, values, side="right").double()
    rank = ((below + upto - 1) / 2) / max(values.shape[1] - 1, 1)
    return mean_over(rank, region)


def _most(allocation: Allocation, region: Tensor) -> Tensor:
    top = allocation.tokens == allocation.tokens.max(1, keepdim=True).values
    return (top & region).sum(1).double() / top.sum(1)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="tokens", unit="tokens per patch", continuous=False,
            read=lambda a, r: mean_over(a.tokens, r),
        ),
        Metric(name="share", unit="share of all tokens", continuous=False, read=_share),
        Metric(name="rank", unit="fraction of patches exceeded", continuous=False, read=_rank),
        Metric(
            name="membership", unit="fraction of patches kept", continuous=False,
            read=lambda a, r: mean_over(a.membership.double(), r),
        ),
        Metric(
            name="relevance", unit="relevance", continuous=True,
            read=lambda a, r: mean_over(a.relevance, r),
        ),
        Metric(name="most", unit="chance of the most-token patch", continuous=False, read=_most),
    )
}  # fmt: skip


def change(before: Allocation, after: Allocation) -> Tensor:
    """Return half the L1 distance of the token shares, 0..1, `[image]`."""
    return _half_l1(before.tokens, after.tokens)


def relevance_change(before: Allocation, after: Allocation) -> Tensor:
    """Return the root mean square change of relevance over patches, `[image]`."""
    return (after.relevance - before.relevance).square().mean(1).sqrt()


def token_change(before: Allocation, after: Allocation) -> Tensor:
    """Return the root mean square change of tokens over patches, `[image]`."""
    return (after.tokens - before.tokens).square().mean(1).sqrt()


def spill_over(before: Allocation, after: Allocation, edited: Tensor) -> Tensor:
    """Return the root mean square change of tokens over patches that were not edited, `[image]`."""
    rest = ~edited
    moved = (after.tokens - before.tokens).square() * rest
    return (moved.sum(1) / rest.sum(1).clamp(min=1)).sqrt()


def divergence(before: Allocation, after: Allocation) -> Tensor:
    """Return the Jensen-Shannon divergence of the token shares in bits, 0..1, `[image]`."""
    p, q = (_shares(a.tokens) for a in (before, after))
    middle = (p + q) / 2

    def relative(a: Tensor) -> Tensor:
        return torch.where(a > 0, a * (a / middle).log2(), torch.zeros_like(a)).sum(1)

    return ((relative(p) + relative(q)) / 2).clamp(0, 1)  # rounding leaves the bounds by 1e-17


def _shares(tokens: Tensor) -> Tensor:
    total = tokens.sum(1, keepdim=True)
    return torch.where(total > 0, tokens / total, torch.full_like(tokens, 1 / tokens.shape[1]))


def _half_l1(before: Tensor, after: Tensor) -> Tensor:
    return (_shares(after) - _shares(before)).abs().sum(1) / 2
