"""What pictures say by themselves: estimators a patch that no model uses, and undoing operations.

Sources: Shannon entropy of a luminance histogram; CIE-Lab distance to the surround; the classical
mistakes of reading pictures (channel order, orientation, transposition, polarity, range).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import uniform_filter

from arrcoc_verify.scenes.colour import luma, to_lab

Floats = NDArray[np.float64]
Grid = tuple[int, int]
_BINS = 64


def estimators(image: Image.Image, grid: Grid) -> Floats:
    """Return `[patch, estimator]`: entropy, edges, contrast to the surround and the mean, colour.

    Columns: entropy of luma (0..1), root mean square gradient, CIE-Lab distance to the ring of
    cells around, the same to the picture's mean, luma, chroma; then the first, third and fourth
    squared.
    """
    pixels = np.asarray(image.convert("RGB"))
    light = luma(pixels).astype(np.float64)
    rows, columns = _edges(light.shape[0], grid[0]), _edges(light.shape[1], grid[1])
    owner = _owner(rows, grid[0])[:, None] * grid[1] + _owner(columns, grid[1])[None, :]
    count = grid[0] * grid[1]
    size = np.bincount(owner.ravel(), minlength=count).clip(min=1)
    entropy = _entropy(light, owner, count, size)
    gradient = np.hypot(*np.gradient(light))
    lab = to_lab(pixels.astype(float))

    def mean(plane: Floats) -> Floats:
        return np.asarray(np.bincount(owner.ravel(), plane.ravel(), count) / size)

    colour = np.stack([mean(lab[..., k]) for k in range(3)], 1)
    plane = colour.reshape(*grid, 3)
    around = np.stack([_ring(plane[..., k]) for k in range(3)], -1).reshape(-1, 3)
    ring, whole = (np.linalg.norm(colour - other, axis=1) for other in (around, colour.mean(0)))
    edges = np.sqrt(mean(gradient**2))
    columns_of = [entropy, edges / 30, ring / 30, whole / 30, colour[:, 0] / 100,
                  np.linalg.norm(colour[:, 1:], axis=1) / 60]  # fmt: skip
    return np.stack([*columns_of, entropy**2, (ring / 30) ** 2, (whole / 30) ** 2], 1)


def _edges(length: int, cells: int) -> NDArray[np.int64]:
    return np.linspace(0, length, cells + 1).round().astype(np.int64)


def _owner(edges: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(cells), np.diff(edges))


def _entropy(
    light: Floats, owner: NDArray[np.int64], count: int, size: NDArray[np.int64]
) -> Floats:
    bins = (light / 256 * _BINS).astype(int).clip(0, _BINS - 1)
    table = np.bincount((owner * _BINS + bins).ravel(), minlength=count * _BINS)
    share = table.reshape(count, _BINS) / size[:, None]
    logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
    return np.asarray(-(share * logs).sum(1) / np.log2(_BINS))


def _ring(plane: Floats) -> Floats:
    """Return the mean over the 9 x 9 cells around each, the 3 x 3 in the middle left out."""
    wide, near = uniform_filter(plane, 9, mode="nearest"), uniform_filter(plane, 3, mode="nearest")
    return np.asarray((81 * wide - 9 * near) / 72)


ESTIMATOR: Mapping[str, int] = {"information": 0, "salience": 2}
"""Role -> column of `estimators` that a scorer of this name should follow."""


def _swap(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))


def _transpose(method: Image.Transpose) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transpose(method)


def _square_only(method: Image.Transpose) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transpose(method).resize(image.size)


OPERATIONS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "red and blue exchanged": _swap,
    "turned upside down": _transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "mirrored": _transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by half a circle": _transpose(Image.Transpose.ROTATE_180),
    "rows and columns exchanged": _square_only(Image.Transpose.TRANSPOSE),
    "polarity inverted": ImageOps.invert,
    "range stretched": lambda image: ImageOps.autocontrast(image, cutoff=1),
}
"""What may have happened to a picture on its way in, each as the operation that takes it back."""


def operated(images: Sequence[Image.Image], name: str) -> list[Image.Image]:
    """Return the pictures after one of `OPERATIONS`."""
    return [OPERATIONS[name](image) for image in images]
