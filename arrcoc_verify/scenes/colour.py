"""Colour arithmetic on arrays: luma, CIE-Lab, and the compression that leaves edits headroom.

Sources: ITU-R BT.601 (luma), CIE 15:2004 and IEC 61966-2-1 (Lab of sRGB).
"""

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.299, 0.587, 0.114])
# After `compress` every luma lies within 128 +- RANGE and no channel is farther than CHROMA from
# its pixel's luma, so edits of +-(127 - RANGE) cannot leave 0..255 except at extreme colours.
RANGE = 64.0
CHROMA = 56.0

# Chroma offsets (Cb, Cr; 0..255 scale) that colour an object; one for each quadrant of the chroma
# plane, so that the names are as far apart as they can be.
TINT = 27.0
TINTS: dict[str, tuple[float, float]] = {
    "purple": (TINT, TINT), "orange": (-TINT, TINT), "green": (-TINT, -TINT), "blue": (TINT, -TINT),
}  # fmt: skip
KEPT_CHROMA = 0.15
"""Share of an object's own chroma that colouring leaves, so that texture in colour survives."""


def luma(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """Luma (0..255) of RGB values along the last axis; equal RGB shifts move it by their size."""
    return np.asarray(np.asarray(rgb, dtype=np.float64) @ LUMA)


def compress(rgb: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The picture with its luma within 128 +- 64 and its chroma bounded, hues kept.

    Args:
        rgb: values 0..255, RGB along the last axis.
    """
    before = luma(rgb)
    chroma = (np.asarray(rgb, dtype=np.float64) - before[..., None]) * (RANGE / 127.5) ** 0.5
    farthest = np.maximum(np.abs(chroma).max(-1, keepdims=True), 1e-9)
    # Smooth saturation: small chroma is kept, large chroma approaches the bound.
    chroma *= CHROMA * np.tanh(farthest / CHROMA) / farthest
    after = 128.0 + (before - 127.5) * (RANGE / 127.5)
    return np.asarray(np.rint(np.clip(after[..., None] + chroma, 0, 255)), dtype=np.uint8)


def fade(rgb: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The picture with `share` of its chroma and its luma as it was."""
    light = luma(rgb)[..., None]
    return np.asarray(np.rint(light + (rgb - light) * share), dtype=np.uint8)


def tint(rgb: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """The picture in one of `TINTS`: luma as it was, chroma moved to the colour's quadrant."""
    blue, red = TINTS[colour]
    # Inverse of BT.601's Cb, Cr; the three offsets leave luma unchanged.
    offset = np.array([1.402 * red, -0.344136 * blue - 0.714136 * red, 1.772 * blue])
    light = luma(rgb)[..., None]
    return np.asarray(
        np.rint(np.clip(light + (rgb - light) * KEPT_CHROMA + offset, 0, 255)), dtype=np.uint8
    )


def to_lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE-Lab (D65) of sRGB values in 0..255, along the last axis (CIE 15:2004; IEC 61966-2-1)."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124564, 0.3575761, 0.1804375],
                       [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])]
    return np.stack(lab, axis=-1)
