"""Test pictures and texts, made here, so that a model can be tried without any data."""

import numpy as np
from PIL import Image

QUERIES = (
    "a small red circle",
    "the old wooden boat near the far shore of the lake",
    "blue",
    "how many yellow birds sit on the roof?",
)
"""Texts of different lengths."""


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Return test pictures (height, width): a coloured gradient with discs and some noise."""
    generator = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    made = []
    for _ in range(count):
        base = np.stack([x, y, 1 - x], 2) * generator.uniform(60, 160)
        for _ in range(3):
            centre, radius = generator.uniform(0.2, 0.8, 2), generator.uniform(0.08, 0.2)
            disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            base[disc] = generator.uniform(0, 255, 3)
        base += generator.normal(0, 6, base.shape)
        made.append(Image.fromarray(base.clip(0, 255).astype(np.uint8)))
    return made
