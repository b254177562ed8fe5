"""Reads a user's picture defensively: whatever the file holds, RGB comes back, or a clear error.

Source: Pillow's documentation of modes, EXIF orientation and decompression bombs.
"""

import functools
import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from arrcoc_verify.errors import BadImage

MEGAPIXELS = 40.0
# Formats that are pictures and nothing else; others start foreign programs or hold pages of text.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm",
    ".avif", ".jp2", ".jfif",
})  # fmt: skip
GREY = (128, 128, 128)
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it will be used.

    Args:
        image: RGB.
        notes: what was done to it, such as "transparency laid on middle grey".
        size: width and height before anything was reduced.
    """

    image: Image.Image
    notes: tuple[str, ...]
    size: tuple[int, int]


def load_image(path: str | Path, *, megapixels: float = MEGAPIXELS) -> Image.Image:
    """The picture in a file as RGB, upright; what had to be changed is logged as a warning.

    Args:
        path: an image file.
        megapixels: larger pictures are refused, before they are decoded.

    Raises:
        BadImage: missing, not a picture, truncated or too large.
    """
    picture = read_picture(path, megapixels=megapixels)
    for note in picture.notes:
        _log.warning("%s: %s", path, note)
    return picture.image


def read_picture(
    path: str | Path, *, megapixels: float = MEGAPIXELS, side: int | None = None
) -> Picture:
    """The picture in a file with notes of what was done to it.

    Args:
        path: an image file.
        megapixels: larger pictures are refused, before they are decoded.
        side: reduce the picture until no side is longer than this.

    Raises:
        BadImage: missing, not a picture, truncated or too large.
    """
    path = Path(path)
    with _open(path, megapixels) as opened:
        size = opened.size
        notes = []
        if getattr(opened, "n_frames", 1) > 1:
            notes.append(f"first of {opened.n_frames} frames used")  # type: ignore[attr-defined]
        try:
            opened.load()
            image = ImageOps.exif_transpose(opened)
        except _BROKEN as error:
            raise BadImage(
                f"wanted a whole picture in {path}, decoding it failed ({error}): "
                "the file is truncated or damaged; copy or export it again"
            ) from error
        if image.size != size or opened.getexif().get(0x0112, 1) not in (0, 1):
            notes.append("turned upright as its EXIF orientation says")
        size = image.size
        image, more = _to_rgb(image, path)
    if side is not None and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        more.append(f"reduced from {size[0]}x{size[1]} to {image.width}x{image.height}")
    return Picture(image=image, notes=tuple(notes + more), size=size)


def read_size(path: str | Path, *, megapixels: float = MEGAPIXELS) -> tuple[int, int]:
    """Width and height of the upright picture, from its header alone.

    Raises:
        BadImage: missing, not a picture or too large.
    """
    with _open(Path(path), megapixels) as opened:
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (opened.height, opened.width) if turned else opened.size


def _open(path: Path, megapixels: float) -> Image.Image:
    if path.is_dir():
        raise BadImage(f"wanted an image file, got the folder {path}: name a file in it")
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on; our own limit is stricter and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=_formats())
    except FileNotFoundError as error:
        raise BadImage(
            f"wanted an image file, found none at {path}: check the path; "
            "relative paths start where the command runs, in tables at the table's folder"
        ) from error
    except Image.DecompressionBombError as error:
        raise BadImage(_too_large(path, str(error), megapixels)) from error
    except UnidentifiedImageError as error:
        raise BadImage(
            f"wanted a picture ({', '.join(_formats())}), {path} holds none of these: "
            "is it empty, or another kind of file? convert it to PNG"
        ) from error
    except _BROKEN as error:
        raise BadImage(f"wanted a readable picture, cannot open {path} ({error})") from error
    if opened.width * opened.height > megapixels * 1e6:
        opened.close()
        raise BadImage(_too_large(path, f"{opened.width}x{opened.height} pixels", megapixels))
    return opened


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _too_large(path: Path, found: str, megapixels: float) -> str:
    return (
        f"wanted at most {megapixels:g} megapixels, {path} has more ({found}): "
        "reduce it, or raise the limit"
    )


def _to_rgb(image: Image.Image, path: Path) -> tuple[Image.Image, list[str]]:
    mode = image.mode
    if mode == "F":
        raise BadImage(
            f"wanted 8 or 16 bits per channel, {path} holds floating-point numbers: "
            "scale them to 0..255 and save as PNG"
        )
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        scale = 257.0 if values.max(initial=0) > 255 else 1.0
        eight = np.clip(np.rint(values / scale), 0, 255).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB"), ["16 bits per channel reduced to 8"]
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema() == (255, 255):
            return layer.convert("RGB"), []
        ground = Image.new("RGBA", layer.size, (*GREY, 255))
        return Image.alpha_composite(ground, layer).convert("RGB"), [
            "transparency laid on middle grey"
        ]
    if mode in ("RGB", "L", "1", "P"):
        return image.convert("RGB"), []
    return image.convert("RGB"), [f"{mode} converted to RGB without a colour profile"]
