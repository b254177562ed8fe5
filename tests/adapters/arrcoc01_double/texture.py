"""Thirteen channels a cell: colour, lightness, edges, place, and copies of two of them."""

import torch
from torch.nn.functional import interpolate

WORKING = 512


def _spread(plane):
    low, high = plane.amin(), plane.amax()
    return (plane - low) / (high - low + 1e-8)


def generate_texture_array(image: torch.Tensor, target_size: int = 32) -> torch.Tensor:
    """Map `[B, 3, H, W]` in 0..1 to `[B, 13, target_size, target_size]`."""
    image = interpolate(image, (WORKING, WORKING), mode="bilinear", align_corners=False)
    count = len(image)
    light = image.mean(1, keepdim=True)
    red_green = (image[:, :1] - image[:, 1:2] + 1) / 2
    down = light.diff(dim=2, append=light[:, :, -1:])
    across = light.diff(dim=3, append=light[:, :, :, -1:])
    strength = (down.square() + across.square()).sqrt()
    line = torch.linspace(0, 1, WORKING)
    row = line[None, None, :, None].expand(count, 1, WORKING, WORKING)
    column = line[None, None, None, :].expand(count, 1, WORKING, WORKING)
    away = ((row - 0.5).square() + (column - 0.5).square()).sqrt() / 0.5**0.5
    edges = [_spread(across), _spread(down), _spread(strength)]
    planes = [image, light, red_green, *edges, row, column, away, edges[2], light]
    full = torch.cat(planes, 1)
    return interpolate(full, (target_size, target_size), mode="bilinear", align_corners=False)
