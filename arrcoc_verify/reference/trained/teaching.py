"""What the scorers and tensions are taught: entropy, contrast to the surround, kinds of query."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.reference.trained.realising import FLOOR, GRID

BINS = 64
HALF = 0.25
_SURROUND = ((-4, 0), (4, 0), (0, -4), (0, 4), (-3, -3), (-3, 3), (3, -3), (3, 3))
TENSIONS = torch.tensor(
    [[0.20, 0.60, 0.85], [0.80, 0.45, 0.20], [0.50, 0.15, 0.40], [0.75, 0.35, 0.20]]
)
"""Compress, exploit, focus for what is named, for everything, for the odd, for nothing."""
ABSENT = torch.tensor([0.75, 0.40, 0.30])
"""The same for a named object that is not there."""
SWAY = 0.3
"""How far a picture's clutter and contrast move its tensions."""


def entropy(glance: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image patch"]:
    """Return the entropy of each patch's 64 luminance samples, as a share of ln 64."""
    light = torch.einsum("bchw,c->bhw", glance, glance.new_tensor([0.299, 0.587, 0.114]))
    b = len(glance)
    cells = light.reshape(b, GRID, FLOOR, GRID, FLOOR).permute(0, 1, 3, 2, 4)
    place = cells.reshape(b, GRID * GRID, FLOOR * FLOOR).clamp(0, 1) * (BINS - 1)
    left = place.floor().long().clamp(max=BINS - 2)
    part = place - left
    histogram = torch.zeros(b, GRID * GRID, BINS, device=glance.device)
    histogram.scatter_add_(2, left, 1 - part).scatter_add_(2, left + 1, part)
    share = histogram / FLOOR**2
    lost: Tensor = torch.special.xlogy(share, share).sum(2)
    return -lost / math.log(BINS)


def contrast(glance: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image patch"]:
    """Return how far each patch's mean colour lies from its surround, 0..1."""
    matrix = glance.new_tensor(
        [[0.299, 0.587, 0.114], [-0.337472, -0.662528, 1.0], [1.0, -0.837376, -0.162624]]
    )
    plane = F.avg_pool2d(torch.einsum("kc,bchw->bkhw", matrix, glance), FLOOR)
    padded = F.pad(plane, (4, 4, 4, 4), mode="replicate")
    around = [padded[:, :, 4 + r : 4 + r + GRID, 4 + c : 4 + c + GRID] for r, c in _SURROUND]
    around.append(plane.mean((2, 3), keepdim=True).expand_as(plane))
    distance = torch.stack([(plane - other).abs().sum(1) for other in around]).mean(0)
    return (distance / (distance + HALF)).flatten(1)


def tensions(kind: Tensor, present: Tensor, info: Tensor, salient: Tensor) -> Tensor:
    """Return the tensions that a query of this kind and a picture like this are taught."""
    table = TENSIONS.to(info)
    base = torch.where((kind == 0)[:, None] & ~present[:, None], ABSENT.to(info), table[kind])
    clutter, stands = info.mean(1) - 0.5, salient.mean(1) - 0.35
    sway = SWAY * torch.stack([clutter, stands, -clutter], 1)
    return (base + sway).clamp(0.02, 0.98)
