"""The texture array of the analytic model: 13 channels a pixel, all of them read downstream.

0      luminance Y, 0..1
1, 2   chroma Cb, Cr, -0.5..0.5 (linear in RGB, so that an equal shift of R, G, B leaves them)
3..12  membership in ten chroma categories, adding up to 1
"""

import math

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

CHANNELS = ("luminance", "chroma_blue", "chroma_red", *(f"category_{i}" for i in range(10)))
SIZE = 256
"""Working image size in pixels."""
CELL = 16
"""Side of a patch in pixels."""
GRID = SIZE // CELL
"""Rows and columns of patches."""

_TO_YCC = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)  # ITU-R BT.601, full range

_WIDTH = 0.03
"""Width of a category in the chroma plane."""


def category_centres() -> Float[Tensor, "category two"]:
    """Return the ten centres in the (Cb, Cr) plane: neutral, five pale hues, four strong."""
    pale = [(0.06, 2 * math.pi * i / 5) for i in range(5)]
    strong = [(0.15, 2 * math.pi * (i + 0.5) / 4) for i in range(4)]
    points = [(r * math.cos(a), r * math.sin(a)) for r, a in [(0.0, 0.0), *pale, *strong]]
    return torch.tensor(points)


def pixels(images: list[Image.Image]) -> Float[Tensor, "image 3 height width"]:
    """Return pictures as RGB in 0..1 at the working size; area resampling avoids aliasing."""
    planes = []
    for image in images:
        sized = image.convert("RGB")
        if sized.size != (SIZE, SIZE):
            sized = sized.resize((SIZE, SIZE), Image.Resampling.BOX)
        raw = torch.frombuffer(bytearray(sized.tobytes()), dtype=torch.uint8)
        planes.append(raw.reshape(SIZE, SIZE, 3).permute(2, 0, 1))
    return torch.stack(planes).float() / 255


def texture(rgb: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 13 height width"]:
    """Return the 13 texture channels of RGB pictures."""
    ycc = torch.einsum("kc,bchw->bkhw", _TO_YCC.to(rgb.dtype), rgb)
    return torch.cat([ycc, categories(ycc[:, 1:])], 1)


def categories(
    chroma: Float[Tensor, "image 2 height width"],
) -> Float[Tensor, "image 10 height width"]:
    """Return how much each pixel belongs to each chroma category; sums to 1."""
    centres = category_centres().to(chroma.dtype)[..., None, None]
    blue, red = (chroma[:, None, i] - centres[:, i] for i in (0, 1))
    distance = blue.square_().add_(red.square_())
    return torch.softmax(distance.neg_().div_(2 * _WIDTH**2), dim=1)


def cells(values: Float[Tensor, "image channel height width"], parts: int = 1) -> Tensor:
    """Return means over cells, or over `parts` x `parts` blocks of each cell.

    Returns:
        `[image, patch, channel]`, or `[image, patch, block, channel]` when `parts` > 1; float64.
    """
    images, channels = values.shape[:2]
    side = GRID * parts
    pooled = torch.nn.functional.avg_pool2d(values, SIZE // side).double()
    if parts == 1:
        return pooled.flatten(2).transpose(1, 2)
    blocks = pooled.reshape(images, channels, GRID, parts, GRID, parts)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(images, GRID * GRID, parts * parts, channels)
